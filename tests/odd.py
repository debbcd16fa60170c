"""Pictures that are no Hiragana: letters, digits and signs, dots, scratches and doodles, each on a photographed page.

As a script it writes a sheet of them, and beneath each what a network is given.

    python tests/odd.py sheet.png
"""

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path

import cv2
import drawn
import numpy as np
from drawn import SIDE

HERSHEY = (  # fonts of single strokes
    cv2.FONT_HERSHEY_SIMPLEX,
    cv2.FONT_HERSHEY_DUPLEX,
    cv2.FONT_HERSHEY_SCRIPT_SIMPLEX,
    cv2.FONT_HERSHEY_TRIPLEX,
)
LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
DIGITS = "0123456789?&#"
LOW, HIGH = 30, SIDE - 30  # pixels: where ink may be


def pictures(seed: int, count: int = 40) -> Iterator[tuple[str, np.ndarray]]:
    """So many pictures of each kind, as (kind, RGB uint8 (H, W, 3)), drawn by the seed."""
    generator = np.random.default_rng(seed)
    for kind, draw in KINDS.items():
        for _ in range(count):
            yield kind, draw(generator)


def _text(characters: str, generator: np.random.Generator) -> np.ndarray:
    text, font = generator.choice(list(characters)), generator.choice(["uni", "sans", "italic", "hershey"])
    if font != "hershey":
        return drawn.character(text, generator, font)
    ink, pen = _sheet(), int(generator.integers(5, 14))
    cv2.putText(ink, text, (45, SIDE - 50), int(generator.choice(HERSHEY)), 3.5, 255, pen, cv2.LINE_AA)
    return drawn.page(ink, generator)


def _letter(generator: np.random.Generator) -> np.ndarray:
    return _text(LETTERS, generator)


def _digit(generator: np.random.Generator) -> np.ndarray:
    return _text(DIGITS, generator)


def _dot(generator: np.random.Generator) -> np.ndarray:
    # round or oval, or a blot of several
    ink, centre = _sheet(), generator.integers(LOW + 30, HIGH - 30, 2)
    for _ in range(int(generator.choice([1, 1, 1, 3]))):
        axes = generator.integers(4, 26) * generator.uniform(0.8, 1.2, 2)
        place = (centre + generator.normal(0, 6, 2)).round().astype(int).tolist()
        cv2.ellipse(ink, place, axes.round().astype(int).tolist(), generator.uniform(0, 180), 0, 360, 255, -1)
    return drawn.page(ink, generator, bend=1)


def _scratch(generator: np.random.Generator) -> np.ndarray:
    # one straight stroke, now and then two or three side by side
    ink, angle = _sheet(), generator.uniform(0, np.pi)
    along, across = np.array([np.cos(angle), np.sin(angle)]), np.array([-np.sin(angle), np.cos(angle)])
    pen, length = int(generator.integers(3, 14)), generator.uniform(40, 110)
    for number in range(int(generator.choice([1, 1, 2, 3]))):
        middle = SIDE / 2 + across * number * (pen + generator.uniform(4, 18)) + generator.normal(0, 4, 2)
        turned = along + across * generator.normal(0, 0.06)
        _line(ink, np.stack([middle - turned * length / 2, middle + turned * length / 2]), pen)
    return drawn.page(ink, generator, bend=1)


def _doodle(generator: np.random.Generator) -> np.ndarray:
    ink, pen, turn = _sheet(), int(generator.integers(4, 12)), generator.uniform(0, 2 * np.pi)
    shape = generator.choice(["curve", "spiral", "zigzag", "scribble"])
    if shape == "curve":  # a smooth one through random points
        knots = generator.uniform(LOW, HIGH, (int(generator.integers(5, 9)), 2))
        points = cv2.resize(knots, (2, 200), interpolation=cv2.INTER_CUBIC)
    elif shape == "spiral":
        angle = np.linspace(0, 2 * np.pi * generator.uniform(2, 4), 200)
        reach = np.linspace(3, 58, 200) * generator.uniform(0.7, 1)
        points = SIDE / 2 + reach[:, None] * np.stack([np.cos(angle + turn), np.sin(angle + turn)], axis=1)
    else:
        points = _zigzag(generator, turn, steep=1.0 if shape == "zigzag" else 0.35)
        if shape == "scribble":  # crossed out, once more in another direction
            _line(ink, _zigzag(generator, turn + generator.uniform(0.5, 2.5), steep=0.35), pen)
    _line(ink, points, pen)
    return drawn.page(ink, generator)


def _zigzag(generator: np.random.Generator, turn: float, steep: float) -> np.ndarray:
    # (n, 2); steep: how far apart its strokes are
    count = int(generator.integers(4, 8) / np.sqrt(steep))
    x = np.linspace(-50, 50, count)
    y = np.where(np.arange(count) % 2, 1, -1) * generator.uniform(25, 55) + generator.normal(0, 5, count)
    rotation = np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
    return np.stack([x, y], axis=1) @ rotation.T + SIDE / 2


def _sheet() -> np.ndarray:
    return np.zeros((SIDE, SIDE), np.uint8)


def _line(ink: np.ndarray, points: np.ndarray, pen: int) -> None:
    cv2.polylines(ink, [points.round().astype(np.int32)], False, 255, pen, cv2.LINE_AA)


KINDS = {"letters": _letter, "digits": _digit, "dots": _dot, "scratches": _scratch, "doodles": _doodle}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sheet", help="PNG to write")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
    from neural_lib.data import ink
    from neural_lib.data.catalog import DATASETS, Preparation

    kmnist, rows = DATASETS["kmnist"], {}
    how = Preparation(kmnist.image_size, kmnist.channels, kmnist.placement)
    for kind, picture in pictures(args.seed, count=16):
        seen = cv2.resize(ink.prepare(picture, how)[0], (84, 84), interpolation=cv2.INTER_NEAREST)
        tile = np.vstack([cv2.resize(picture, (84, 84)), cv2.cvtColor(seen, cv2.COLOR_GRAY2RGB)])
        rows.setdefault(kind, []).append(tile)
    sheet = np.vstack([np.hstack(row) for row in rows.values()])
    cv2.imwrite(args.sheet, cv2.cvtColor(sheet, cv2.COLOR_RGB2BGR))


if __name__ == "__main__":
    main()
