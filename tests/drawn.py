"""Pictures as people make them, from a data set's images: larger, off-centre, dark on light, unevenly lit, noisy."""

import cv2
import numpy as np


def picture(
    image: np.ndarray,
    size: int,
    generator: np.random.Generator,
    inverted: bool = False,
    quality: int | None = None,
    shade: float = 0.0,
    noise: float = 0.0,
) -> np.ndarray:
    """An image (S, S), light on black, somewhere on a larger ground: RGB, uint8 (1.6 * size, 1.9 * size, 3).

    size: pixels that it is enlarged to. quality: of a JPEG that it goes through. shade: grey levels that the light
    falls off by from one side to the other. noise: standard deviation, grey levels.
    """
    enlarged = cv2.resize(image, (size, size), interpolation=cv2.INTER_CUBIC)
    ground = np.zeros((round(1.6 * size), round(1.9 * size)), np.float32)
    top, left = (generator.integers(0, length - size, endpoint=True) for length in ground.shape)
    ground[top : top + size, left : left + size] = enlarged
    if inverted:
        ground = 255 - ground
    if shade:
        down, right = np.mgrid[0 : 1 : ground.shape[0] * 1j, 0 : 1 : ground.shape[1] * 1j]
        angle = generator.uniform(0, 2 * np.pi)
        light = shade * ((right - 0.5) * np.cos(angle) + (down - 0.5) * np.sin(angle))
        ground = 40 + ground * (160 + light) / 255  # ink at 40, paper around 200
    ground = ground + generator.normal(0, noise, ground.shape)
    pixels = ground.round().clip(0, 255).astype(np.uint8)
    if quality is not None:
        pixels = cv2.imdecode(
            cv2.imencode(".jpg", pixels, [cv2.IMWRITE_JPEG_QUALITY, quality])[1], cv2.IMREAD_GRAYSCALE
        )
    return cv2.cvtColor(pixels, cv2.COLOR_GRAY2RGB)


def skeleton(image: np.ndarray, size: int, width: int) -> np.ndarray:
    """The same strokes with a pen of that many pixels, black on white, on a ground of twice the size: RGB."""
    enlarged = cv2.resize(image, (size, size), interpolation=cv2.INTER_CUBIC)
    thin = cv2.ximgproc.thinning(np.where(enlarged > 100, np.uint8(255), np.uint8(0)))
    thin = cv2.dilate(thin, cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (width, width)))
    ground = np.full((2 * size, 2 * size), 255, np.uint8)
    ground[size // 2 : size // 2 + size, size // 2 : size // 2 + size] -= thin
    return cv2.cvtColor(ground, cv2.COLOR_GRAY2RGB)
