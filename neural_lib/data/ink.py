"""Prepare a picture as an image of a data set: find its ink, cut it out and place it; or make a photo square."""

import math

import cv2
import numpy as np

from neural_lib.data.catalog import Placement, Preparation
from neural_lib.data.pictures import PictureError

MIN_CONTRAST = 25  # grey levels of 255 between ink and ground; a page with less is blank
MIN_OF_NOISE = 6  # standard deviations of the ground's noise that ink must stand out by, too
MAX_NOISE = 128  # grey levels: what stands out by more is ink, however uneven a ground blurred strokes leave
SHADED_FROM = 0.15  # of the contrast: what the ground's brightness varies by before it is taken for shading
SEEN_FROM = 0.2  # of the ink's depth: what belongs to its bounding box
FRAMED_FROM = 0.9  # of the pixels along the edges: what is taken for a frame around the page
MIN_SPECK = 0.01  # of the largest stroke's area; what is smaller is dust


def find_ink(grey: np.ndarray, invert: str = "auto", on_paper: bool = True) -> np.ndarray:
    """The ink of a picture, cut out along its bounding box: float32 (h, w), 0 is ground and 1 is ink.

    grey: uint8 (H, W). invert: "yes" takes what is darker than the ground for ink, "no" what is lighter, and "auto"
    whichever stands out more. The ground is what the picture's border mostly shows. on_paper: where its brightness
    varies as that of a lit page does, it is taken to be a quadratic surface, and what is no more than its grain is
    left out. Specks of dust are left out of the box.
    Raises PictureError if nothing stands out.
    """
    grey = grey.astype(np.float32)
    ground = np.float32(np.median(_border(_smooth(grey))))
    if on_paper:
        ground = lit_ground(grey, ground)
    depth = ground - grey
    smooth = _smooth(depth)
    if invert == "no" or (invert == "auto" and -smooth.min() > smooth.max()):
        depth, smooth = -depth, -smooth

    deepest = smooth.max()
    is_ground = smooth < 0.3 * deepest
    if deepest < MIN_CONTRAST or not is_ground.any():
        raise PictureError("no ink found")
    noise = 1.4826 * np.median(np.abs(depth[is_ground])) if on_paper else 0.0  # a robust standard deviation
    if deepest < min(MIN_OF_NOISE * noise, MAX_NOISE):
        raise PictureError("no ink found")
    full, nothing = np.median(depth[depth > 0.5 * deepest]), min(3 * noise, 0.3 * deepest)
    ink = np.clip((depth - nothing) / (full - nothing), 0, 1)
    if on_paper:
        ink = _without_frame(ink)
    return ink[_box(ink)]


def stroke_width(ink: np.ndarray) -> float:
    """The mean width of the strokes, in pixels of (h, w): twice their area over the length of their outline."""
    mask = cv2.copyMakeBorder((ink > 0.5).astype(np.uint8), 1, 1, 1, 1, cv2.BORDER_CONSTANT)
    outlines, _ = cv2.findContours(mask, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE)
    length = sum(cv2.arcLength(outline, closed=True) for outline in outlines)
    return 2 * float(mask.sum()) / max(length, 1.0)


def thicken(ink: np.ndarray, by: float) -> np.ndarray:
    """The ink with strokes wider by that many pixels, (h, w) -> (h + by, w + by) or so."""
    reach = round(by / 2)
    if reach < 1:
        return ink
    room = cv2.copyMakeBorder(ink, reach, reach, reach, reach, cv2.BORDER_CONSTANT)
    return cv2.dilate(room, cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * reach + 1, 2 * reach + 1)))


def _border(grey: np.ndarray) -> np.ndarray:
    width = max(1, round(0.05 * min(grey.shape)))
    return np.concatenate([part.ravel() for part in (grey[:width], grey[-width:], grey[:, :width], grey[:, -width:])])


def _smooth(grey: np.ndarray) -> np.ndarray:
    # against single pixels of noise, which mean nothing in a large picture and something in one of 28x28
    sigma = min(grey.shape) / 400  # pixels
    return cv2.GaussianBlur(grey, (0, 0), sigma) if sigma >= 0.5 else grey


def lit_ground(grey: np.ndarray, ground: np.float32) -> np.ndarray | np.float32:
    # the ground's brightness everywhere, (H, W), or one number where it is even
    scale = min(1.0, 64 / max(grey.shape))
    width, height = (max(1, round(length * scale)) for length in grey.shape[::-1])
    small = cv2.resize(grey, (width, height), interpolation=cv2.INTER_AREA)
    y, x = np.mgrid[-1 : 1 : height * 1j, -1 : 1 : width * 1j].astype(np.float32)
    terms = np.stack([np.ones_like(x), x, y, x * x, x * y, y * y], axis=-1)  # (h, w, 6)
    contrast = np.abs(_smooth(grey) - ground).max()
    surface = np.full_like(small, ground)
    for _ in range(2):  # twice: the second time without the pixels that the first surface leaves out
        near = np.abs(small - surface) < 0.3 * contrast
        if near.mean() < 0.2:
            return ground
        surface = terms @ np.linalg.lstsq(terms[near], small[near], rcond=None)[0]
    if np.ptp(surface) < SHADED_FROM * contrast:
        return ground
    return cv2.resize(surface, grey.shape[::-1], interpolation=cv2.INTER_LINEAR)


def _without_frame(ink: np.ndarray) -> np.ndarray:
    # a frame is rings of ink, from the outermost inwards: no character runs along all four edges
    for width in range(min(ink.shape) // 8):
        ring = np.concatenate([ink[width], ink[-1 - width], ink[:, width], ink[:, -1 - width]])
        if (ring > SEEN_FROM).mean() < FRAMED_FROM:
            inside = np.zeros_like(ink)
            rest = slice(width, ink.shape[0] - width), slice(width, ink.shape[1] - width)
            inside[rest] = ink[rest]
            return inside if (inside > SEEN_FROM).any() else ink
    return ink


def _box(ink: np.ndarray) -> tuple[slice, slice]:
    count, _, parts, _ = cv2.connectedComponentsWithStats((ink > SEEN_FROM).astype(np.uint8), connectivity=8)
    parts = parts[1:count]  # without the ground; each (left, top, width, height, area)
    left, top, width, height, _ = parts[parts[:, cv2.CC_STAT_AREA] >= MIN_SPECK * parts[:, cv2.CC_STAT_AREA].max()].T
    return slice(top.min(), (top + height).max()), slice(left.min(), (left + width).max())


def prepare(picture: np.ndarray, how: Preparation, invert: str = "auto") -> np.ndarray:
    """A picture as an image of a data set: uint8, (C, S, S).

    picture: uint8 RGB, (H, W, 3). invert: see find_ink; for photos it changes nothing.
    Raises PictureError if the data set's images show ink, or a thing on even ground, and the picture shows none.
    """
    if how.placement is None:
        square = make_square(picture, how.image_size, how.fit)
        square = to_grey(square)[..., None] if how.channels == 1 else square
        return square.transpose(2, 0, 1)  # (S, S, C) -> (C, S, S)
    cut_out = find_ink(to_grey(picture), invert, on_paper=how.placement.is_written)
    return place(cut_out, how.placement, how.image_size)[None]  # (S, S) -> (1, S, S)


def to_grey(picture: np.ndarray) -> np.ndarray:
    """An RGB picture (H, W, 3) as (H, W); of three equal channels exactly one of them."""
    return cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY)


def place(cut_out: np.ndarray, placement: Placement, size: int) -> np.ndarray:
    """Ink as it came from find_ink -> uint8 (size, size), where and as large as the data set has it, light on black."""
    scale = placement.box / max(cut_out.shape)
    lacking = placement.stroke / scale - stroke_width(cut_out) if placement.is_written else 0.0
    cut_out = thicken(cut_out, lacking)

    scale = placement.box / max(cut_out.shape)
    height, width = (max(1, round(length * scale)) for length in cut_out.shape)
    how = cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC  # the former averages: no stroke falls between pixels
    small = np.clip(cv2.resize(cut_out, (width, height), interpolation=how), 0, 1)
    small /= max(small.max(), 1e-3)

    if placement.centre == "mass":  # the centre of mass goes to the pixel below and right of the middle
        top, left = (math.ceil(size / 2 - each) for each in _centre_of_mass(small))
    else:
        top, left = (size - height) // 2, (size - width) // 2
    top, left = min(max(top, 0), size - height), min(max(left, 0), size - width)
    frame = np.zeros((size, size), np.uint8)
    frame[top : top + height, left : left + width] = np.round(small * 255)
    return frame


def make_square(picture: np.ndarray, size: int, fit: str = "crop") -> np.ndarray:
    """A picture (H, W, 3) as (size, size, 3), with antialiasing. fit: see Preparation."""
    height, width = picture.shape[:2]
    if fit == "crop":
        side = min(height, width)
        top, left = (height - side) // 2, (width - side) // 2
        picture = picture[top : top + side, left : left + side]
    elif fit == "pad":
        side = max(height, width)
        top, left = (side - height) // 2, (side - width) // 2
        bars = (top, side - height - top, left, side - width - left)
        picture = cv2.copyMakeBorder(picture, *bars, cv2.BORDER_CONSTANT, value=(0, 0, 0))
    how = cv2.INTER_AREA if max(picture.shape[:2]) > size else cv2.INTER_CUBIC
    return cv2.resize(picture, (size, size), interpolation=how)


def _centre_of_mass(image: np.ndarray) -> tuple[float, float]:
    # in pixels from the upper left corner, down and right
    total = image.sum()
    down, right = (float(image.sum(axis) @ (np.arange(image.shape[1 - axis]) + 0.5)) / total for axis in (1, 0))
    return down, right
