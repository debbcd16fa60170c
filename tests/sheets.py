"""Sheets as people fill them in and photograph them: printed, written on with a data set's images, seen by a camera."""

import io
import math
import sys
from pathlib import Path

import cv2
import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from neural_lib.data.sheet import SheetPage
from neural_lib.prediction.printing import figure_of
from tests import pages

DPI = 254  # of a printed sheet: 10 pixels per mm


def printed(page: SheetPage) -> np.ndarray:
    """A page as it comes out of a printer: RGB, uint8 (H, W, 3), DPI pixels per inch."""
    content = io.BytesIO()
    figure_of(page).savefig(content, format="png", dpi=DPI, pil_kwargs={"compress_level": 1})
    encoded = np.frombuffer(content.getvalue(), np.uint8)
    return cv2.cvtColor(cv2.imdecode(encoded, cv2.IMREAD_COLOR), cv2.COLOR_BGR2RGB)


def fill_in(
    paper: np.ndarray, page: SheetPage, images: dict[int, np.ndarray], generator: np.random.Generator, pen: str = ""
) -> np.ndarray:
    """Write images (S, S), light on black, into the boxes with these numbers. pen: see pages.written; default: any."""
    uniform, per_mm = generator.uniform, DPI / 25.4
    pen = pen or ("brush", "thin", "thick")[generator.integers(3)]
    ink, dark = np.zeros(paper.shape[:2], np.float32), np.array([uniform(10, 70), uniform(10, 70), uniform(20, 120)])
    typical = uniform(0.6, 0.85)  # of the box's side
    for number, (left, top, side, _) in zip(page.numbers, page.boxes * per_mm, strict=True):
        if number not in images:
            continue
        size = round(side * typical * uniform(0.9, 1.1))
        mark = pages.written(images[number], size, pen)
        x, y = (round(at + side / 2 - size / 2 + uniform(-0.07, 0.07) * side) for at in (left, top))
        part = ink[y : y + size, x : x + size]
        np.maximum(part, mark, out=part)
    paper, touched = paper.copy(), ink > 0
    clean = paper[touched]
    paper[touched] = np.minimum(clean, clean + (dark - clean) * ink[touched][:, None]).round()
    return paper


def cross_out(paper: np.ndarray, page: SheetPage, numbers: list[int], generator: np.random.Generator) -> np.ndarray:
    """Draw a line, or a cross, from corner to corner of the boxes with these numbers."""
    paper, per_mm = paper.copy(), DPI / 25.4
    for number in numbers:
        left, top, side, _ = page.boxes[number - page.first] * per_mm
        jitter = generator.uniform(-0.06, 0.06, (2, 2, 2)) * side
        ends = np.array([[[left, top], [left + side, top + side]], [[left + side, top], [left, top + side]]]) + jitter
        first = int(generator.integers(2))
        for line in ends if generator.uniform() < 0.5 else ends[first : first + 1]:
            cv2.line(paper, *(tuple(map(round, each)) for each in line), (40, 40, 60), round(0.5 * per_mm), cv2.LINE_AA)
    return paper


def photograph(
    paper: np.ndarray, generator: np.random.Generator, longest: int = 2000, tilt: float = 20, turn: float = 180
) -> np.ndarray:
    """A photo of a paper on a table: RGB, uint8 (H, W, 3). longest: its longer side, pixels.

    tilt: up to this angle the camera looks at the paper from the side, turn: up to this it is turned, degrees.
    """
    uniform, (height, width) = generator.uniform, paper.shape[:2]
    side, lean, spin = (math.radians(uniform(*limits)) for limits in ((0, 360), (0, tilt), (-turn, turn)))
    rotation = _about_z(spin + side) @ _about_x(lean) @ _about_z(-side)
    corners = np.array([[0, 0], [width, 0], [width, height], [0, height]], np.float32)
    points = np.column_stack([corners - [width / 2, height / 2], np.zeros(4)]) @ rotation.T
    seen = points[:, :2] / (points[:, 2:] + 1.6 * height)  # a phone held at 1.6 times the paper's height
    seen = (seen - seen.min(0)) / np.ptp(seen, axis=0).max()
    border = uniform(0.02, 0.08) * longest
    seen = seen * (longest - 2 * border) + border
    size = np.ceil(seen.max(0) + border).astype(int)
    sharpness = 0.4 * height / longest  # standard deviation of the blur before pixels are left out
    blurred = cv2.GaussianBlur(paper, (0, 0), sharpness) if sharpness > 0.3 else paper
    to_camera = cv2.getPerspectiveTransform(corners, seen.astype(np.float32))
    table = uniform(30, 160, 3)
    photo = cv2.warpPerspective(blurred, to_camera, tuple(size), flags=cv2.INTER_LINEAR, borderValue=tuple(table))
    y, x = np.mgrid[0 : 1 : size[1] * 1j, 0 : 1 : size[0] * 1j].astype(np.float32)
    angle = uniform(0, 2 * math.pi)
    light = 1 - uniform(0.05, 0.4) * (0.5 + 0.5 * ((x - 0.5) * math.cos(angle) + (y - 0.5) * math.sin(angle)))
    if uniform() < 0.3:  # the shadow of the phone
        angle, softness = uniform(0, 2 * math.pi), uniform(0.02, 0.1)
        across = (x - uniform(0.2, 0.8)) * math.cos(angle) + (y - uniform(0.2, 0.8)) * math.sin(angle)
        light *= 1 - uniform(0.1, 0.35) / (1 + np.exp(-across / softness))
    tint = np.array([1.0, uniform(0.94, 1.0), uniform(0.85, 1.0)])
    pixels = photo * light[..., None] * tint + generator.normal(0, uniform(1, 6), photo.shape)
    quality = [cv2.IMWRITE_JPEG_QUALITY, int(generator.integers(50, 95))]
    encoded = cv2.imencode(".jpg", pixels.round().clip(0, 255).astype(np.uint8), quality)[1]
    return cv2.imdecode(encoded, cv2.IMREAD_COLOR)


def _about_z(angle: float) -> np.ndarray:
    return np.array([[math.cos(angle), -math.sin(angle), 0], [math.sin(angle), math.cos(angle), 0], [0, 0, 1]])


def _about_x(angle: float) -> np.ndarray:
    return np.array([[1, 0, 0], [0, math.cos(angle), -math.sin(angle)], [0, math.sin(angle), math.cos(angle)]])
