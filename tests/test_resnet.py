import torch
from torch import nn
from torchvision.models import resnet18

from neural_lib.models import build_model
from neural_lib.resnet import ResNet18


def test_it_is_torchvisions_but_for_the_change_for_small_images():
    ours, theirs = ResNet18(3, 10), resnet18(num_classes=10)
    changed = {"conv1.weight"}
    assert ours.state_dict().keys() == theirs.state_dict().keys()
    for name, value in theirs.state_dict().items():
        assert (ours.state_dict()[name].shape == value.shape) is (name not in changed), name
    assert ours.conv1.weight.shape == (64, 3, 3, 3) and ours.conv1.stride == (1, 1)
    theirs.conv1, theirs.maxpool = nn.Conv2d(3, 64, 3, padding=1, bias=False), nn.Identity()
    theirs.load_state_dict(ours.state_dict())
    images = torch.randn(2, 3, 32, 32)
    torch.testing.assert_close(ours.eval()(images), theirs.eval()(images).log_softmax(dim=1))


def test_parameter_count():
    for channels, parameters in ((1, 11_172_810), (3, 11_173_962)):
        model = build_model("resnet18", numChannels=channels, classes=10)
        assert sum(p.numel() for p in model.parameters()) == parameters


def test_its_last_pooling_sees_four_by_four_places_of_a_small_image():
    seen = []
    model = ResNet18(1, 10).eval()
    model.avgpool.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].shape))
    model(torch.zeros(1, 1, 28, 28))
    assert seen == [(1, 512, 4, 4)]
