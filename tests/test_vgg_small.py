import pytest
import torch
from torch import nn

from neural_lib.models import build_model
from neural_lib.vgg_small import VGGSmall


@pytest.mark.parametrize("channels, width, parameters", [(1, 24, 162_562), (3, 24, 162_994), (1, 32, 288_170)])
def test_parameter_count(channels, width, parameters):
    assert sum(p.numel() for p in VGGSmall(channels, 10, width=width).parameters()) == parameters


def test_it_is_what_its_description_says():
    # written once more, in the order of the description: ReLU before each maximum
    torch.manual_seed(0)
    ours = build_model("vgg-small", numChannels=3, classes=7, image_size=32).double()
    layers, channels = [], 3
    for width in (24, 48, 96):
        for _ in range(2):
            layers += [nn.Conv2d(channels, width, 3, padding=1, bias=False), nn.BatchNorm2d(width), nn.ReLU()]
            channels = width
        layers.append(nn.MaxPool2d(2) if width < 96 else nn.AdaptiveMaxPool2d(1))
    described = nn.Sequential(*layers, nn.Flatten(), nn.Linear(96, 7), nn.LogSoftmax(dim=1)).double()
    theirs = zip(described.state_dict(), ours.state_dict().values(), strict=True)  # in the same order
    described.load_state_dict(dict(theirs))
    images, labels = torch.randn(16, 3, 32, 32).double(), torch.arange(16) % 7
    results = [network(images) for network in (ours, described)]
    torch.testing.assert_close(*results, check_dtype=False)  # ours ends in float32 whatever it is given
    for result in results:
        nn.functional.nll_loss(result, labels).backward()
    for mine, other in zip(ours.parameters(), described.parameters(), strict=True):
        torch.testing.assert_close(mine.grad, other.grad, rtol=1e-5, atol=1e-7)


def test_images_too_small_are_refused():
    VGGSmall(1, 10, image_size=4).eval()(torch.zeros(1, 1, 4, 4))
    with pytest.raises(ValueError, match="at least 4 pixels, not 3"):
        VGGSmall(1, 10, image_size=3)
