"""OpenCV drawing: arrays in, arrays out, and montages in files. Colours are OpenCV's BGR."""

import math
import os
from pathlib import Path

import cv2
import imutils
import numpy as np

from neural_lib.system.files import write_file

# what cv2.imencode writes in the wheels of opencv-contrib-python
SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp")
TILE_WIDTH = 168  # pixels: 28 enlarged 6 times, one square a pixel
LINE_HEIGHT = 30  # pixels of one line of text below the image
FONT_SIZE, SMALLEST_FONT = 20, 8  # pixels
MARGIN = 6  # pixels on either side of a line
GREEN, RED, GREY, BACKGROUND = (90, 220, 90), (90, 90, 255), (200, 200, 200), (32, 32, 32)
WHITE, DARK = (255, 255, 255), (64, 64, 64)


def annotate_image(image: np.ndarray, predicted: str, probability: float, truth: str, scale: int = 1) -> np.ndarray:
    """One image enlarged, with the predicted name and its probability below it.

    image: uint8 (H, W) or, in RGB, (H, W, 3). predicted, truth: names, any script. probability: 0 to 1.
    Returns uint8 BGR, scale * TILE_WIDTH wide: green text where right; red, with the truth below it, where wrong.
    """
    right = predicted == truth
    answer = (f"{predicted}  {percent(probability)}", GREEN if right else RED)
    return _captioned(enlarged(image, scale * TILE_WIDTH), [answer, ("" if right else f"truth: {truth}", GREY)], scale)


def annotate_picture(
    picture: np.ndarray, name: str, probability: float, caption: str, seen: np.ndarray | None = None, scale: int = 1
) -> np.ndarray:
    """One picture of a person's own, with the predicted name, its probability and a caption below it.

    picture: uint8 RGB, (H, W, 3), shown whole. seen: what the network was given, as annotate_image takes an
    image; shown to the right. Returns uint8 BGR, scale * TILE_WIDTH wide, twice that and a gap with `seen`.
    """
    side = scale * TILE_WIDTH
    shown = _fitted(picture, side)
    if seen is not None:
        gap = np.full((side, scale * MARGIN, 3), BACKGROUND, np.uint8)
        shown = np.hstack([shown, gap, enlarged(seen, side)])
    return _captioned(shown, [(f"{name}  {percent(probability)}", WHITE), (caption, GREY)], scale)


def _captioned(picture: np.ndarray, lines: list[tuple[str, tuple]], scale: int) -> np.ndarray:
    # a picture with lines of text below it, each with its colour
    below = np.full((len(lines) * scale * LINE_HEIGHT, picture.shape[1], 3), BACKGROUND, np.uint8)
    for number, (text, colour) in enumerate(lines):
        _put_line(below, text, number, colour, scale)
    return np.vstack((picture, below))


def draw_bars(names: list[str], probabilities: list[float], width: int, height: int) -> np.ndarray:
    """Probabilities, 0 to 1, as bars, one below the other: uint8 BGR, (height, width, 3)."""
    chart = np.full((height, width, 3), BACKGROUND, np.uint8)
    row_height = height // max(len(names), 1)
    for number, (name, probability) in enumerate(zip(names, probabilities, strict=True)):
        row = chart[number * row_height : (number + 1) * row_height]
        _put_line(row, f"{name}  {percent(probability)}", 0, WHITE if number == 0 else GREY, 1)
        left, right = MARGIN, width - MARGIN
        top, bottom = LINE_HEIGHT + 1, min(LINE_HEIGHT + 9, row_height - 2)
        cv2.rectangle(row, (left, top), (right, bottom), DARK, cv2.FILLED)
        end = left + round((right - left) * probability)
        if end > left:
            cv2.rectangle(row, (left, top), (end, bottom), GREEN if number == 0 else GREY, cv2.FILLED)
    return chart


def draw_lines(texts: list[str], width: int) -> np.ndarray:
    """Lines of text, one below the other: uint8 BGR, (LINE_HEIGHT * lines, width, 3)."""
    canvas = np.full((LINE_HEIGHT * len(texts), width, 3), BACKGROUND, np.uint8)
    for number, text in enumerate(texts):
        _put_line(canvas, text, number, GREY, 1)
    return canvas


def with_text(picture: np.ndarray, text: str, width: int) -> np.ndarray:
    """A BGR picture with a line of text to its right, that wide together."""
    canvas = np.full((picture.shape[0], width, 3), BACKGROUND, np.uint8)
    left = picture.shape[1] + MARGIN
    canvas[:, MARGIN:left] = picture
    _put_line(canvas[:, left:], text, 0, GREY, 1)
    return canvas


def titled_montage(tiles: list[np.ndarray], text: str) -> np.ndarray:
    """A montage of the tiles, which may be none, under a line of text."""
    rows = [montage(tiles)] if tiles else []
    width = max([4 * TILE_WIDTH, *(row.shape[1] for row in rows)])  # beside few tiles there is room for the text
    head = np.full((LINE_HEIGHT + 2 * MARGIN, width, 3), BACKGROUND, np.uint8)
    _put_line(head[MARGIN:], text, 0, GREY, 1)
    rows = [cv2.copyMakeBorder(row, 0, 0, 0, width - row.shape[1], cv2.BORDER_CONSTANT) for row in rows]
    return np.vstack([head, *rows])


def glyph(character: str, height: int = 48) -> np.ndarray:
    """A written character as dark on transparent, RGBA, uint8, (height, width, 4), for pictures that have no such font.

    OpenCV's own font holds Hiragana, which matplotlib's does not.
    """
    font, size = cv2.FontFace("uni"), height * 2 // 3
    ink = np.zeros((height, max(1, _text_width(character, font, size)), 3), np.uint8)
    cv2.putText(ink, character, (0, height * 3 // 4), (255, 255, 255), font, size)
    return np.dstack([np.zeros_like(ink), ink[..., 0]])


def enlarged(image: np.ndarray, width: int) -> np.ndarray:
    """An image as annotate_image takes one, that many pixels wide, its pixels as squares: uint8 BGR."""
    size = (width, round(width * image.shape[0] / image.shape[1]))
    colour = cv2.cvtColor(image, cv2.COLOR_GRAY2BGR if image.ndim == 2 else cv2.COLOR_RGB2BGR)
    how = cv2.INTER_NEAREST if width >= image.shape[1] else cv2.INTER_AREA
    return cv2.resize(colour, size, interpolation=how)


def montage(tiles: list[np.ndarray]) -> np.ndarray:
    """Tiles of one size side by side on one canvas, about as wide as high and at least 5 to a row where there are 5."""
    height, width = tiles[0].shape[:2]
    columns = min(len(tiles), max(5, math.ceil(math.sqrt(len(tiles) * height / width))))
    rows = math.ceil(len(tiles) / columns)
    framed = [cv2.copyMakeBorder(tile, 3, 3, 3, 3, cv2.BORDER_CONSTANT, value=(0, 0, 0)) for tile in tiles]
    return imutils.build_montages(framed, (width + 6, height + 6), (columns, rows))[0]


def encode(image: np.ndarray, suffix: str) -> bytes:
    """The content of a picture file of the kind that `suffix` (one of SUFFIXES) names."""
    return cv2.imencode(suffix, image)[1].tobytes()


def percent(probability: float) -> str:
    """A probability, 0 to 1, as the tiles and the log show it."""
    return f"{probability:.1%}"


def _fitted(picture: np.ndarray, side: int) -> np.ndarray:
    # the whole RGB picture in a square of BGR
    height, width = (max(1, round(length * side / max(picture.shape[:2]))) for length in picture.shape[:2])
    how = cv2.INTER_AREA if max(picture.shape[:2]) > side else cv2.INTER_NEAREST
    small = cv2.cvtColor(cv2.resize(picture, (width, height), interpolation=how), cv2.COLOR_RGB2BGR)
    square = np.full((side, side, 3), DARK, np.uint8)
    top, left = (side - height) // 2, (side - width) // 2
    square[top : top + height, left : left + width] = small
    return square


def _put_line(canvas: np.ndarray, text: str, line: int, colour: tuple[int, int, int], scale: int) -> None:
    # "uni" is the font inside OpenCV 5 that holds Hiragana; the size shrinks until a long name fits
    font, size, room = cv2.FontFace("uni"), scale * FONT_SIZE, canvas.shape[1] - 2 * scale * MARGIN
    while _text_width(text, font, size) > room and size > scale * SMALLEST_FONT:
        size -= 1
    baseline = scale * (line * LINE_HEIGHT + (LINE_HEIGHT + FONT_SIZE) // 2 - 3)
    cv2.putText(canvas, text, (scale * MARGIN, baseline), colour, font, size)


def _text_width(text: str, font: cv2.FontFace, size: int) -> int:
    x, _, width, _ = cv2.getTextSize((0, 0), text, (0, 0), font, size)
    return x + width


MARK = b"neural_lib montage"  # at the end of each file, where no reader of pictures looks
PAGE = 100  # tiles: 12 x 9 of annotate's are 2,088 x 2,148 pixels, with their heading


def page_paths(path: Path, tiles: int) -> list[Path]:
    """The files for so many tiles: `path` if one is enough, else p-page-1.png, p-page-2.png ... for p.png."""
    count = max(1, -(-tiles // PAGE))
    digits = len(str(count))
    return [path] if count == 1 else [path.with_stem(f"{path.stem}-page-{n:0{digits}}") for n in range(1, count + 1)]


def is_montage(path: Path) -> bool:
    """True if Pages wrote this file."""
    if not os.path.isfile(path):  # opening a pipe would wait for somebody to write to it
        return False
    try:
        with path.open("rb") as file:
            file.seek(-len(MARK), os.SEEK_END)
            return file.read() == MARK
    except OSError:  # such as of a shorter file
        return False


class Pages:
    """Collects tiles of one size; holds no more than a page of them.

    tiles: how many will come at most, which decides the files' names. Raises OSError if one can't be written.
    """

    def __init__(self, path: Path, tiles: int) -> None:
        self.paths = page_paths(path, tiles)
        self.tiles: list[np.ndarray] = []
        self.written: list[Path] = []

    def add(self, tile: np.ndarray) -> None:
        """Take one more."""
        self.tiles.append(tile)
        if len(self.tiles) == PAGE:
            self._write()

    def finish(self) -> list[Path]:
        """Write what is left; returns the files of all pages."""
        if self.tiles:
            self._write()
        return self.written

    def _write(self) -> None:
        path, first = self.paths[len(self.written)], len(self.written) * PAGE + 1
        if len(self.paths) == 1:
            picture = montage(self.tiles)
        else:
            picture = titled_montage(self.tiles, f"{first:,} to {first + len(self.tiles) - 1:,}")
        write_file(path, lambda: encode(picture, path.suffix) + MARK)
        self.written.append(path)
        self.tiles = []
