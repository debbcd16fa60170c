"""A person's picture as the images of a data set are: what it shows cut out, scaled and placed."""

import math
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import cv2
import numpy as np

from neural_lib import ink, pictures
from neural_lib.placement import Placement

if TYPE_CHECKING:
    from neural_lib.datasets import DatasetInfo


class Prepared(NamedTuple):
    """A picture file, ready for a network."""

    path: Path
    thumbnail: np.ndarray  # the whole picture, RGB, uint8 (H, W, 3), at most so many pixels high and wide
    image: np.ndarray  # as prepare gives it


def from_file(path: Path, info: "DatasetInfo", invert: str, thumbnail: int) -> Prepared:
    """Read a picture and prepare it. Raises pictures.PictureError, which says why it can't be."""
    picture = pictures.read(path)
    try:
        image = prepare(picture, info, invert)
    except ink.NoInk as error:
        raise pictures.PictureError(str(error)) from None
    scale = thumbnail / max(picture.shape[:2])
    if scale < 1:
        size = [max(1, round(length * scale)) for length in picture.shape[1::-1]]
        picture = cv2.resize(picture, size, interpolation=cv2.INTER_AREA)
    return Prepared(path, picture, image)


def prepare(picture: np.ndarray, info: "DatasetInfo", invert: str = "auto") -> np.ndarray:
    """A picture as an image of the data set `info`: uint8, (C, S, S), channels and size being the data set's.

    picture: uint8 RGB, (H, W, 3). invert: see ink.find; where photos are to be told apart nothing is inverted.
    Raises ink.NoInk where the data set's images show ink, or a thing on even ground, and the picture shows none.
    """
    if info.placement is None:
        return middle(picture, info.image_size).transpose(2, 0, 1)  # (S, S, 3) -> (3, S, S)
    grey = cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY)
    cut_out = ink.find(grey, invert, on_paper=info.placement.is_written)
    return placed(cut_out, info.placement, info.image_size)[None]  # (S, S) -> (1, S, S)


def placed(cut_out: np.ndarray, placement: Placement, size: int) -> np.ndarray:
    """Ink as it came from ink.find -> uint8 (size, size), where and as large as the data set has it, light on black."""
    scale = placement.box / max(cut_out.shape)
    lacking = placement.stroke / scale - ink.stroke_width(cut_out) if placement.is_written else 0.0
    cut_out = ink.thickened(cut_out, lacking)

    scale = placement.box / max(cut_out.shape)
    height, width = (max(1, round(length * scale)) for length in cut_out.shape)
    how = cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC  # the former averages: no stroke falls between pixels
    small = np.clip(cv2.resize(cut_out, (width, height), interpolation=how), 0, 1)
    small /= max(small.max(), 1e-3)

    if placement.centre == "mass":  # which comes to lie in the pixel below and right of the middle
        top, left = (math.ceil(size / 2 - each) for each in _centre_of_mass(small))
    else:
        top, left = (size - height) // 2, (size - width) // 2
    top, left = min(max(top, 0), size - height), min(max(left, 0), size - width)
    frame = np.zeros((size, size), np.uint8)
    frame[top : top + height, left : left + width] = np.round(small * 255)
    return frame


def middle(picture: np.ndarray, size: int) -> np.ndarray:
    """The square in a picture's middle, (H, W, 3) -> (size, size, 3), with antialiasing."""
    side = min(picture.shape[:2])
    top, left = ((length - side) // 2 for length in picture.shape[:2])
    square = picture[top : top + side, left : left + side]
    how = cv2.INTER_AREA if side > size else cv2.INTER_CUBIC
    return cv2.resize(square, (size, size), interpolation=how)


def _centre_of_mass(image: np.ndarray) -> tuple[float, float]:
    # in pixels from the upper left corner, down and right
    total = image.sum()
    down, right = (float(image.sum(axis) @ (np.arange(image.shape[1 - axis]) + 0.5)) / total for axis in (1, 0))
    return down, right
