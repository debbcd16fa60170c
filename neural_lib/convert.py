"""Images of one kind as a network for another kind takes them."""

from torch import Tensor


def convert(images: Tensor, channels: int, size: int) -> tuple[Tensor, list[str]]:
    """Images (N, C, H, W), uint8, of 1 or 3 channels -> (N, channels, size, size), and what was changed, in words.

    Colour becomes grey by ITU-R 601-2 luma, grey the same in each of three channels; other sizes are resampled
    bilinearly, with antialiasing. All of it is torchvision's.
    """
    if tuple(images.shape[1:]) == (channels, size, size):
        return images, []

    from torchvision.transforms.v2 import functional  # a second or two

    changes = []
    if images.size(1) != channels:
        images = functional.rgb_to_grayscale(images) if channels == 1 else functional.grayscale_to_rgb(images)
        changes.append("colour to grey" if channels == 1 else "grey to three equal channels")
    if tuple(images.shape[2:]) != (size, size):
        changes.append(f"{images.size(3)}x{images.size(2)} to {size}x{size} pixels")
        images = functional.resize(images, [size, size], antialias=True)
    return images, changes
