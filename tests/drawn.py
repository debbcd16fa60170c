"""Pictures as people make them: larger than a data set's images, off-centre, dark on light, unevenly lit, noisy.

As a script it writes a data set of one's own: ten pages, and a hundred to test, of each of KMNIST's characters, each
bent, turned and in a pen of its own.

    python tests/drawn.py data/hand
"""

import argparse
import sys
from pathlib import Path

import cv2
import numpy as np

SIDE = 180  # pixels of a square that holds a character, and some room around it


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


def character(text: str, generator: np.random.Generator, font: str = "uni") -> np.ndarray:
    """A character of one of OpenCV's fonts as if written by hand on a photographed page: RGB, uint8 (H, W, 3)."""
    ink = np.zeros((SIDE, SIDE, 3), np.uint8)
    # without a weight OpenCV takes that of the text drawn before
    cv2.putText(ink, text, (30, SIDE - 50), (255, 255, 255), cv2.FontFace(font), SIDE - 60, weight=400)
    pen = int(generator.integers(-2, 4))  # pixels wider, or narrower
    kernel = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (abs(pen) + 1, abs(pen) + 1))
    return page((cv2.dilate if pen > 0 else cv2.erode)(ink[..., 0], kernel), generator)


def page(ink: np.ndarray, generator: np.random.Generator, bend: float = 6.0) -> np.ndarray:
    """Ink (SIDE, SIDE), uint8, 255 where it is, bent and turned on a photographed page: RGB, uint8 (H, W, 3).

    bend: standard deviation of the shifts that the ink is bent by, pixels.
    """
    ink = ink.astype(np.float32) / 255
    angle, shear = np.deg2rad(generator.uniform(-10, 10)), generator.uniform(-0.25, 0.25)
    wide, high = generator.uniform(0.8, 1.2, 2)
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    affine = turn @ np.array([[1 / wide, shear], [0, 1 / high]])
    y, x = np.mgrid[0:SIDE, 0:SIDE] - SIDE / 2
    source = np.einsum("ij,jhw->ihw", affine, np.stack([x, y])) + SIDE / 2  # (2, H, W)
    shifts = generator.normal(0, bend, (2, 5, 5))  # at points between which it is interpolated
    source += [cv2.resize(each, (SIDE, SIDE), interpolation=cv2.INTER_CUBIC) for each in shifts]
    ink = cv2.remap(ink, *source.astype(np.float32), cv2.INTER_LINEAR)

    height, width = generator.integers(220, 320, 2)
    covered = np.zeros((height, width, 1), np.float32)
    top, left = generator.integers(0, height - SIDE), generator.integers(0, width - SIDE)
    covered[top : top + SIDE, left : left + SIDE, 0] = ink * generator.uniform(0.75, 0.95)
    paper, colour = generator.uniform(170, 245, 3), generator.uniform(10, 110, 3)
    light = np.linspace(-20, 20, width)[None, :, None] * generator.uniform(-1, 1)
    pixels = paper + light + (colour - paper) * covered + generator.normal(0, 4, (height, width, 3))
    return pixels.round().clip(0, 255).astype(np.uint8)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", help="a new one")
    folder = parser.parse_args().folder
    if Path(folder).exists():
        parser.error(f"{folder} is there already; name a new folder")
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
    from neural_lib.data.catalog import DATASETS

    generator, kmnist = np.random.default_rng(0), DATASETS["kmnist"]
    for part, count in (("train", 10), ("test", 100)):
        for name, glyph in zip(kmnist.classes, kmnist.glyphs, strict=True):
            for number in range(count):
                path = Path(folder, part, name, f"{number}.jpg")
                path.parent.mkdir(parents=True, exist_ok=True)
                cv2.imwrite(str(path), cv2.cvtColor(character(glyph, generator), cv2.COLOR_RGB2BGR))
    print(f"wrote 10 pages to train and 100 to test of each of {len(kmnist.classes)} characters in {folder}")


if __name__ == "__main__":
    main()
