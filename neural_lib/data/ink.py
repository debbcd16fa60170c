"""Turn a picture into an image of a data set: find its ink, cut it out and place it; or make a photo square."""

import math

import cv2
import numpy as np

from neural_lib.data.catalog import Placement, Preparation
from neural_lib.data.pictures import PictureError, reduced

# Thresholds that separate ink from ground, noise, shading, frames and dust; tests/data/test_ink.py has such pictures.
MIN_CONTRAST = 25  # grey levels of 255 between ink and ground; a page with less contrast is blank
MIN_OF_NOISE = 6  # standard deviations of the ground's noise by which ink must differ from the ground
MAX_NOISE = 128  # grey levels; more is ink whatever the noise, because blurred strokes make the ground look noisy
SHADED_FROM = 0.15  # variation of the ground's brightness, as share of the contrast, from which it counts as shading
SEEN_FROM = 0.2  # share of the ink's depth from which a pixel belongs to its bounding box
FRAMED_FROM = 0.9  # share of dark pixels along all four edges from which they are a frame around the page
MIN_SPECK = 0.01  # share of the largest stroke's area below which a speck is dust


def find_ink(grey: np.ndarray, invert: str = "auto", on_paper: bool = True) -> np.ndarray:
    """The ink of a picture, cut out along its bounding box: float32 (h, w), 0 is ground and 1 is ink.

    grey: uint8 (H, W). invert: "yes" if ink is darker than the ground, "no" if it is lighter, "auto" to choose the one
    with more contrast. The ground is the median brightness along the picture's border. on_paper: the picture shows a
    page, so uneven light is corrected by fitting a quadratic surface to the ground, grain of the paper is no ink, and a
    frame around the page is removed. Specks of dust don't count for the bounding box.
    Raises PictureError if there is no ink.
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
    mask = (ink > 0.5).astype(np.uint8)
    outlines, _ = cv2.findContours(mask, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE)
    length = sum(cv2.arcLength(outline, closed=True) for outline in outlines)
    return 2 * float(mask.sum()) / max(length, 1.0)


def thicken(ink: np.ndarray, by: float) -> np.ndarray:
    """Make strokes wider by about this number of pixels: (h, w) -> (h + 2r, w + 2r), r = round(by / 2)."""
    reach = round(by / 2)
    if reach < 1:
        return ink
    room = cv2.copyMakeBorder(ink, reach, reach, reach, reach, cv2.BORDER_CONSTANT)
    return cv2.dilate(room, cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * reach + 1, 2 * reach + 1)))


def _border(grey: np.ndarray) -> np.ndarray:
    width = max(1, round(0.05 * min(grey.shape)))
    return np.concatenate([part.ravel() for part in (grey[:width], grey[-width:], grey[:, :width], grey[:, -width:])])


def _smooth(grey: np.ndarray) -> np.ndarray:
    # Blur away single pixels of noise in large pictures. In a small one, such as 28x28, a pixel can be ink.
    sigma = min(grey.shape) / 400  # pixels
    return cv2.GaussianBlur(grey, (0, 0), sigma) if sigma >= 0.5 else grey


def lit_ground(grey: np.ndarray, ground: np.float32) -> np.ndarray | np.float32:
    """The brightness of the ground in each pixel, (H, W), if it varies as on a lit page, else `ground` unchanged.

    grey: float32 (H, W). ground: the typical brightness of the ground. Both in grey levels.
    """
    small = reduced(grey, 64)
    height, width = small.shape
    y, x = np.mgrid[-1 : 1 : height * 1j, -1 : 1 : width * 1j].astype(np.float32)
    terms = np.stack([np.ones_like(x), x, y, x * x, x * y, y * y], axis=-1)  # (h, w, 6)
    contrast = np.abs(_smooth(grey) - ground).max()
    surface = np.full_like(small, ground)
    for _ in range(2):  # the second fit excludes pixels that are far from the first surface, such as ink
        near = np.abs(small - surface) < 0.3 * contrast
        if near.mean() < 0.2:
            return ground
        surface = terms @ np.linalg.lstsq(terms[near], small[near], rcond=None)[0]
    if np.ptp(surface) < SHADED_FROM * contrast:
        return ground
    return cv2.resize(surface, grey.shape[::-1], interpolation=cv2.INTER_LINEAR)


def _without_frame(ink: np.ndarray) -> np.ndarray:
    # Remove a frame: rings of ink from the outermost inwards. No character runs along all four edges.
    for width in range(min(ink.shape) // 8):
        ring = np.concatenate([ink[width], ink[-1 - width], ink[:, width], ink[:, -1 - width]])
        if (ring > SEEN_FROM).mean() < FRAMED_FROM:
            rest = slice(width, ink.shape[0] - width), slice(width, ink.shape[1] - width)
            inside = np.pad(ink[rest], width)
            return inside if (inside > SEEN_FROM).any() else ink
    return ink


def _box(ink: np.ndarray) -> tuple[slice, slice]:
    # The bounding box of the ink without dust, as slices of rows and of columns.
    count, _, parts, _ = cv2.connectedComponentsWithStats((ink > SEEN_FROM).astype(np.uint8), connectivity=8)
    parts = parts[1:count]  # without the ground; each (left, top, width, height, area)
    left, top, width, height, _ = parts[parts[:, cv2.CC_STAT_AREA] >= MIN_SPECK * parts[:, cv2.CC_STAT_AREA].max()].T
    return slice(top.min(), (top + height).max()), slice(left.min(), (left + width).max())


def prepare(picture: np.ndarray, how: Preparation, invert: str = "auto") -> np.ndarray:
    """Turn a picture into an image of a data set: uint8 (C, S, S).

    picture: uint8 RGB (H, W, 3). invert: see find_ink; ignored for photos.
    Raises PictureError if ink, or an object on even ground, is expected and the picture shows none.
    """
    if how.placement is None:
        square = make_square(picture, how.image_size, how.fit)
        square = to_grey(square)[..., None] if how.channels == 1 else square
        return square.transpose(2, 0, 1)  # (S, S, C) -> (C, S, S)
    cut_out = find_ink(to_grey(picture), invert, on_paper=how.placement.is_written)
    return place(cut_out, how.placement, how.image_size)[None]  # (S, S) -> (1, S, S)


def to_grey(picture: np.ndarray) -> np.ndarray:
    """Convert an RGB picture (H, W, 3) to grey (H, W). Three equal channels give exactly one of them."""
    return cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY)


def place(cut_out: np.ndarray, placement: Placement, size: int) -> np.ndarray:
    """Draw the ink that find_ink returned, light on black, with the data set's size, position and stroke width.

    Returns uint8 (size, size). Strokes are made thicker if they would be thinner than the data set's, never thinner.
    """
    scale = placement.box / max(cut_out.shape)
    lacking = placement.stroke / scale - stroke_width(cut_out) if placement.is_written else 0.0
    cut_out = thicken(cut_out, lacking)

    scale = placement.box / max(cut_out.shape)
    height, width = (max(1, round(length * scale)) for length in cut_out.shape)
    how = cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC  # INTER_AREA averages, so no thin stroke is lost
    small = np.clip(cv2.resize(cut_out, (width, height), interpolation=how), 0, 1)
    small /= max(small.max(), 1e-3)

    if placement.centre == "mass":  # the centre of mass is put into the pixel below and right of the middle
        moments = cv2.moments(small)  # coordinates begin in the middle of the first pixel
        top, left = (math.ceil(size / 2 - 0.5 - moments[each] / moments["m00"]) for each in ("m01", "m10"))
    else:
        top, left = (size - height) // 2, (size - width) // 2
    top, left = min(max(top, 0), size - height), min(max(left, 0), size - width)
    frame = np.zeros((size, size), np.uint8)
    frame[top : top + height, left : left + width] = np.round(small * 255)
    return frame


def make_square(picture: np.ndarray, size: int, fit: str = "crop") -> np.ndarray:
    """Resize a picture (H, W, 3) to (size, size, 3), with antialiasing.

    fit: "crop" keeps the square in the middle, "pad" adds black bars, "stretch" changes the aspect ratio.
    """
    height, width = picture.shape[:2]
    if fit == "crop":
        side = min(height, width)
        top, left = (height - side) // 2, (width - side) // 2
        picture = picture[top : top + side, left : left + side]
    elif fit == "pad":
        side = max(height, width)
        top, left = (side - height) // 2, (side - width) // 2
        bars = (top, side - height - top, left, side - width - left)
        picture = cv2.copyMakeBorder(picture, *bars, cv2.BORDER_CONSTANT)
    how = cv2.INTER_AREA if max(picture.shape[:2]) > size else cv2.INTER_CUBIC
    return cv2.resize(picture, (size, size), interpolation=how)
