"""Heat maps: where they are hot, their shape for every network, and what computing them leaves alone."""

import threading
import time

import pytest
import torch
from torch import nn
from torch.nn import functional

from neural_lib.config import ARCHS, TORCHVISION_ARCHS, VIT_SIZE
from neural_lib.evaluation import gradcam
from neural_lib.evaluation.gradcam import heat_maps
from neural_lib.networks import build_network


class Spotter(nn.Module):
    """Class 0 is the brightness of an image, class 1 its darkness; a ReLU in place changes the convolution's output."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.wait = nn.Conv2d(1, 2, kernel_size=4, stride=4), nn.Identity()
        self.squeeze = nn.Conv2d(2, 2, kernel_size=1)  # of a single place, after the mean
        self.fc = nn.Linear(2, 2)
        with torch.no_grad():
            self.conv.weight[0], self.conv.weight[1] = 1 / 16, -1 / 16
            self.squeeze.weight[:] = torch.eye(2).view(2, 2, 1, 1)
            self.fc.weight[:] = torch.eye(2)
            for layer in (self.conv, self.squeeze, self.fc):
                layer.bias.zero_()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.squeeze(functional.relu_(self.conv(x)).mean(dim=(2, 3), keepdim=True))
        return self.fc(self.wait(x.flatten(1))).log_softmax(dim=1)


def spots() -> torch.Tensor:
    """Three images (3, 1, 16, 16): grey with a bright spot in another place each, the second with a half-bright one."""
    images = torch.zeros(3, 1, 16, 16)
    for image, (row, column) in zip(images, ((0, 4), (8, 8), (12, 12)), strict=True):
        image[0, row : row + 4, column : column + 4] = 1
    images[1, 0, :4, :4] = 0.5
    return images


def test_the_heat_is_where_the_bright_spot_is_that_decides():
    maps = heat_maps(Spotter().eval(), spots(), torch.tensor([0, 0, 1]))
    expected = torch.zeros(3, 4, 4)
    expected[0, 0, 1] = expected[1, 2, 2] = 1  # the hottest place of each image has 1
    expected[1, 0, 0] = 0.5
    assert torch.equal(maps, expected)  # nothing in the third image speaks for darkness


def lenet() -> nn.Module:
    torch.manual_seed(0)
    return build_network("lenet", numChannels=1, classes=10).eval()


def test_a_map_of_lenet_is_gradient_times_features_of_its_last_convolution():
    model, images, classes = lenet(), torch.randn(5, 1, 28, 28), torch.tensor([3, 1, 4, 1, 5])
    features = model.conv2(model.relu1(model.maxpool1(model.conv1(images)))).detach().requires_grad_()
    hidden = model.relu3(model.fc1(model.relu2(model.maxpool2(features)).flatten(1)))
    model.fc2(hidden)[range(5), classes].sum().backward()
    expected = (features * features.grad).sum(dim=1).relu()
    expected = expected / expected.amax(dim=(1, 2), keepdim=True)
    assert (expected.amax(dim=(1, 2)) == 1).all()
    # 8 places of 2 pixels are in the middle of 28 pixels: the two convolutions lose 2 + 2 * 2 pixels at each edge
    torch.testing.assert_close(heat_maps(model, images, classes), functional.pad(expected.detach(), [3] * 4))


def test_where_a_network_ends_in_the_mean_over_all_places_it_is_grad_cam():
    torch.manual_seed(0)
    model = build_network("resnet18", numChannels=1, classes=4).eval()
    images, kept = torch.randn(2, 1, 28, 28), []
    model.layer4.register_forward_hook(lambda layer, args, output: kept.append(output))
    model(images)  # weights of the paper: the mean gradient, here the last layer's weights / 16 places
    expected = (model.fc.weight[[2, 3], :, None, None] * kept[0]).sum(dim=1).relu()
    peaks = expected.amax(dim=(1, 2), keepdim=True)
    maps = heat_maps(model, images, torch.tensor([2, 3]))
    torch.testing.assert_close(maps * peaks, expected.detach())


def assert_is_map(arch: str, size: int) -> None:
    torch.manual_seed(0)
    model = build_network(arch, numChannels=3, classes=4, image_size=size).eval()
    maps = heat_maps(model, torch.randn(2, 3, size, size), torch.tensor([0, 3]))
    if arch.startswith("vit_"):
        assert maps is None
        return
    count, height, width = maps.shape
    assert count == 2 and 2 <= height == width <= size / 2 and maps.dtype == torch.float32
    assert maps.isfinite().all() and ((maps >= 0) & (maps <= 1)).all()
    assert {0.0, 1.0} >= set(maps.amax(dim=(1, 2)).tolist()) and not maps.requires_grad


SIDES = {"lenet": 14, "lenet-slim": 14, "vgg-small": 7, "resnet18": 4, "efficientnet-lite0": 7}


@pytest.mark.few(1)
@pytest.mark.parametrize("arch", ARCHS)
def test_every_network_has_a_map(arch):
    size = 224 if arch == "efficientnet-lite0" else 28
    assert_is_map(arch, 64 if size == 224 else size)
    model = build_network(arch, numChannels=1, classes=2, image_size=size).eval()
    assert heat_maps(model, torch.zeros(1, 1, size, size), torch.tensor([0])).shape == (1, SIDES[arch], SIDES[arch])


@pytest.mark.slow
@pytest.mark.parametrize("arch", TORCHVISION_ARCHS)
def test_every_network_of_torchvision_has_a_map_but_vision_transformers(arch):
    assert_is_map(arch, VIT_SIZE if arch.startswith("vit_") else 96)


@pytest.mark.slow
@pytest.mark.parametrize("arch, side", [("vgg11", 4), ("swin_t", 2)])  # at 64 pixels
def test_places_that_are_only_pooled_are_not_taken_and_a_transformers_are(arch, side):
    model = build_network(arch, numChannels=3, classes=2, image_size=64).eval()
    assert heat_maps(model, torch.zeros(1, 3, 64, 64), torch.tensor([1])).shape == (1, side, side)


def test_a_vision_transformer_has_no_map():
    attention = nn.Sequential(nn.Conv2d(1, 4, 2), nn.MultiheadAttention(4, 1), nn.Linear(4, 2)).eval()
    assert heat_maps(attention, torch.zeros(1, 1, 8, 8), torch.tensor([0])) is None


@pytest.mark.parametrize("requires_grad", [True, False])
def test_the_network_is_left_as_it_was(requires_grad):
    model, images, classes = lenet().requires_grad_(requires_grad), torch.randn(4, 1, 28, 28), torch.arange(4)
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    expected, before = heat_maps(model, images, classes), model(images)
    for mode in (torch.inference_mode, torch.no_grad):
        with mode():
            assert torch.equal(heat_maps(model, images.clone(), classes), expected) and not torch.is_grad_enabled()
    assert torch.is_grad_enabled() and torch.equal(model(images), before) and not model.training
    for parameter in model.parameters():
        assert parameter.requires_grad == requires_grad and (parameter.grad == 1).all()
    assert not any(module._forward_hooks for module in model.modules())


def test_only_layers_behind_the_last_convolution_are_differentiated(monkeypatch):
    model, recorded = lenet(), []
    for layer in (model.conv1, model.relu1, model.relu2):
        layer.register_forward_hook(lambda layer, args, output: recorded.append(output.requires_grad))
    gradcam._contributions(model, model.conv2, torch.randn(1, 1, 28, 28), torch.tensor([0]))
    assert recorded == [False, False, True]


def test_images_are_computed_in_batches_of_limited_size(monkeypatch):
    model, images, classes, sizes = lenet(), torch.randn(5, 1, 28, 28), torch.arange(5), []
    expected = heat_maps(model, images, classes)
    monkeypatch.setattr(gradcam, "eval_batch_size", lambda image_size, device: 2)
    model.register_forward_pre_hook(lambda layer, args: sizes.append(len(args[0])))
    torch.testing.assert_close(heat_maps(model, images, classes), expected)
    assert sizes == [1, 2, 2, 1]  # the first to find the layer


def test_threads_that_use_a_network_at_once_get_the_results_of_one():
    model = Spotter().eval()
    # before the hooks are removed, so that the other threads' passes overlap with each
    model.wait.register_forward_hook(lambda layer, args, output: time.sleep(0.002))
    images, classes = spots(), torch.tensor([0, 0, 1])
    small = images[..., :8, :8]  # would have other places
    expected, answers = heat_maps(model, images, classes), model(small).detach()
    failures = []

    def use(kind: int) -> None:
        for _ in range(5):
            try:
                if kind:
                    same = torch.equal(heat_maps(model, images[kind - 1 :], classes[kind - 1 :]), expected[kind - 1 :])
                else:
                    outputs = model(small)
                    same = torch.equal(outputs, answers) and outputs.requires_grad
                if not same:
                    failures.append(kind)
            except Exception as error:
                failures.append(error)

    threads = [threading.Thread(target=use, args=(kind,)) for kind in (0, 1, 2, 3)]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    assert not failures
