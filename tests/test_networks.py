"""Tests of all networks, then of each network besides LeNet."""

import pytest
import torch
from torch import nn
from torchvision.models import resnet18

from neural_lib.config import ARCHS, PHOTO_SIZE, WIDTH_ARCHS
from neural_lib.efficientnet import STAGES, EfficientNetLite0
from neural_lib.networks import LeNetSlim, VGGSmall, build_network
from neural_lib.torchvision_networks import ResNet18


def size_for(arch: str, size: int) -> int:
    """The image size to test a network with: `size`, or the smallest that a network for photos takes."""
    return max(size, PHOTO_SIZE) if arch == "efficientnet-lite0" else size


@pytest.mark.few(2)
@pytest.mark.parametrize("channels, size", [(1, 28), (3, 32)])
@pytest.mark.parametrize("arch", ARCHS)
def test_a_network_turns_images_into_log_probabilities(arch, channels, size):
    torch.manual_seed(0)
    size = size_for(arch, size)
    model = build_network(arch, numChannels=channels, classes=7, image_size=size)
    images = torch.rand(5, channels, size, size)
    log_probs = model(images)
    assert log_probs.shape == (5, 7) and log_probs.dtype == torch.float32
    torch.testing.assert_close(log_probs.exp().sum(dim=1), torch.ones(5))
    with torch.autocast("cpu", torch.bfloat16):
        assert model(images).dtype == torch.float32
    log_probs.mean().backward()
    assert all(parameter.grad is not None for parameter in model.parameters())


@pytest.mark.parametrize("arch", ARCHS)
def test_dropout_is_for_training_only_and_has_no_parameters(arch):
    torch.manual_seed(0)
    size = size_for(arch, 28)
    args = {"numChannels": 1, "classes": 10, "image_size": size}
    model = build_network(arch, **args, dropout=0.5)
    assert model.state_dict().keys() == build_network(arch, **args).state_dict().keys()
    images = torch.rand(4, 1, size, size)
    assert not torch.equal(model(images), model(images))
    model.eval()
    assert torch.equal(model(images), model(images))


@pytest.mark.parametrize("arch", ARCHS)
def test_the_channels_last_layout_changes_no_value(arch):
    args = {"numChannels": 3, "classes": 10, "image_size": size_for(arch, 32)}
    model = build_network(arch, **args).eval()
    kernels = [parameter for parameter in model.parameters() if parameter.dim() == 4]  # may be empty
    assert all(kernel.is_contiguous(memory_format=torch.channels_last) for kernel in kernels)
    plain = build_network(arch, **args).to(memory_format=torch.contiguous_format)
    plain.load_state_dict(model.state_dict())
    images = torch.randn(4, 3, args["image_size"], args["image_size"])
    torch.testing.assert_close(model(images), plain.eval()(images), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("arch", WIDTH_ARCHS)
def test_a_network_with_a_width_has_more_parameters_the_wider_it_is(arch):
    sizes = [
        sum(p.numel() for p in build_network(arch, numChannels=1, classes=10, width=width).parameters())
        for width in (4, 8)
    ]
    assert sizes[0] < sizes[1]


# --- LeNetSlim ---


class SourceNetwork(nn.Module):
    """The network of the structured experiment that LeNetSlim comes from; it returns logits."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(1, 6, kernel_size=5), nn.Conv2d(6, 12, kernel_size=5)
        self.fc1, self.fc2, self.out = nn.Linear(12 * 4 * 4, 120), nn.Linear(120, 60), nn.Linear(60, 10)

    def forward(self, x):
        x = nn.functional.max_pool2d(nn.functional.relu(self.conv1(x)), kernel_size=2, stride=2)
        x = nn.functional.max_pool2d(nn.functional.relu(self.conv2(x)), kernel_size=2, stride=2)
        x = x.reshape(-1, 12 * 4 * 4)
        x = nn.functional.relu(self.fc1(x))
        return self.out(nn.functional.relu(self.fc2(x)))


def test_lenet_slim_with_nll_is_the_source_network_with_cross_entropy():
    torch.manual_seed(0)
    ours, source = build_network("lenet-slim", numChannels=1, classes=10), SourceNetwork()
    source.load_state_dict(ours.state_dict())  # the layers have the same names
    images, labels = torch.randn(32, 1, 28, 28), torch.arange(32) % 10
    loss = nn.functional.nll_loss(ours(images), labels)
    source_loss = nn.functional.cross_entropy(source(images), labels)
    torch.testing.assert_close(loss, source_loss)
    for each in (loss, source_loss):
        each.backward()
    for mine, other in zip(ours.parameters(), source.parameters(), strict=True):
        torch.testing.assert_close(mine.grad, other.grad)


def test_lenet_slims_parameter_count_and_smallest_images():
    assert sum(p.numel() for p in LeNetSlim(1, 10).parameters()) == 32_998
    LeNetSlim(1, 10, image_size=16)
    with pytest.raises(ValueError, match="at least 16 pixels, not 15"):
        LeNetSlim(1, 10, image_size=15)


# --- VGGSmall ---


@pytest.mark.parametrize("channels, width, parameters", [(1, 24, 162_562), (3, 24, 162_994), (1, 32, 288_170)])
def test_vgg_smalls_parameter_count(channels, width, parameters):
    assert sum(p.numel() for p in VGGSmall(channels, 10, width=width).parameters()) == parameters


def test_vgg_small_is_the_network_of_its_description():
    # The reference is built in the order of the docstring, with ReLU before each maximum.
    torch.manual_seed(0)
    ours = build_network("vgg-small", numChannels=3, classes=7, image_size=32).double()
    layers, channels = [], 3
    for width in (24, 48, 96):
        for _ in range(2):
            layers += [nn.Conv2d(channels, width, 3, padding=1, bias=False), nn.BatchNorm2d(width), nn.ReLU()]
            channels = width
        layers.append(nn.MaxPool2d(2) if width < 96 else nn.AdaptiveMaxPool2d(1))
    reference = nn.Sequential(*layers, nn.Flatten(), nn.Linear(96, 7), nn.LogSoftmax(dim=1)).double()
    weights = zip(reference.state_dict(), ours.state_dict().values(), strict=True)  # in the same order
    reference.load_state_dict(dict(weights))
    images, labels = torch.randn(16, 3, 32, 32).double(), torch.arange(16) % 7
    results = [network(images) for network in (ours, reference)]
    torch.testing.assert_close(*results, check_dtype=False)  # ours always ends in float32
    for result in results:
        nn.functional.nll_loss(result, labels).backward()
    for mine, other in zip(ours.parameters(), reference.parameters(), strict=True):
        torch.testing.assert_close(mine.grad, other.grad, rtol=1e-5, atol=1e-7)


def test_vgg_smalls_smallest_images():
    VGGSmall(1, 10, image_size=4).eval()(torch.zeros(1, 1, 4, 4))
    with pytest.raises(ValueError, match="at least 4 pixels, not 3"):
        VGGSmall(1, 10, image_size=3)


# --- ResNet18 ---


def test_resnet18_is_torchvisions_but_for_the_change_for_small_images():
    ours, reference = ResNet18(3, 10), resnet18(num_classes=10)
    changed = {"conv1.weight"}
    assert ours.state_dict().keys() == reference.state_dict().keys()
    for name, value in reference.state_dict().items():
        assert (ours.state_dict()[name].shape == value.shape) is (name not in changed), name
    assert ours.conv1.weight.shape == (64, 3, 3, 3) and ours.conv1.stride == (1, 1)
    assert sum(p.numel() for p in ours.parameters()) == 11_173_962
    reference.conv1, reference.maxpool = nn.Conv2d(3, 64, 3, padding=1, bias=False), nn.Identity()
    reference.load_state_dict(ours.state_dict())
    images = torch.randn(2, 3, 32, 32)
    torch.testing.assert_close(ours.eval()(images), reference.eval()(images).log_softmax(dim=1))


def test_resnet18s_last_pooling_is_over_four_by_four_pixels_of_a_small_image():
    shapes = []
    model = ResNet18(1, 10).eval()
    model.avgpool.register_forward_pre_hook(lambda _, inputs: shapes.append(inputs[0].shape))
    model(torch.zeros(1, 1, 28, 28))
    assert shapes == [(1, 512, 4, 4)]
    assert sum(p.numel() for p in model.parameters()) == 11_172_810


# --- EfficientNetLite0 ---


def test_efficientnet_lite0s_shapes_are_those_of_the_papers_table():
    model, shapes = EfficientNetLite0(3, 1000).eval(), []
    assert sum(p.numel() for p in model.parameters()) == 4_652_008
    for layer in (model.stem, *model.blocks, model.head):
        layer.register_forward_hook(lambda _, inputs, output: shapes.append(tuple(output.shape[1:3])))
    model(torch.zeros(1, 3, 224, 224))
    ends = [shapes[sum(stage.blocks for stage in STAGES[: number + 1])] for number in range(len(STAGES))]
    assert ends == [(16, 112), (24, 56), (40, 28), (80, 14), (112, 14), (192, 7), (320, 7)]
    assert shapes[0] == (32, 112) and shapes[-1] == (1280, 7)


def test_efficientnet_lite0s_smallest_images():
    EfficientNetLite0(1, 10, image_size=64).eval()(torch.zeros(1, 1, 64, 64))
    with pytest.raises(ValueError, match="at least 64 pixels, not 63"):
        EfficientNetLite0(1, 10, image_size=63)
