import pytest
import torch

from neural_lib.convert import convert


def test_images_that_fit_are_left_as_they_are():
    images = torch.randint(0, 256, (3, 1, 28, 28), dtype=torch.uint8)
    converted, changes = convert(images, 1, 28)
    assert converted is images and changes == []


@pytest.mark.parametrize("given, wanted, changes", [
    ((3, 32), (1, 32), ["colour to grey"]),
    ((3, 32), (1, 28), ["colour to grey", "32x32 to 28x28 pixels"]),
    ((1, 28), (3, 32), ["grey to three equal channels", "28x28 to 32x32 pixels"]),
    ((1, 28), (1, 32), ["28x28 to 32x32 pixels"]),
])  # fmt: skip
def test_channels_and_size_become_the_networks(given, wanted, changes):
    (channels, size), (wanted_channels, wanted_size) = given, wanted
    images = torch.full((2, channels, size, size), 200, dtype=torch.uint8)
    converted, told = convert(images, wanted_channels, wanted_size)
    assert converted.shape == (2, wanted_channels, wanted_size, wanted_size)
    assert converted.dtype == torch.uint8 and told == changes
    assert converted.float().sub(200).abs().max() <= 1  # one even colour stays that, but for rounding


def test_grey_is_what_the_eye_sees_as_brightness():
    red, green, blue = (255 * torch.eye(3, dtype=torch.uint8)).view(3, 3, 1, 1)
    converted, _ = convert(torch.stack([red, green, blue]), 1, 1)
    assert converted.flatten().tolist() == pytest.approx([255 * 0.299, 255 * 0.587, 255 * 0.114], abs=1)
