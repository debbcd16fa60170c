"""Drawing with OpenCV: text, annotated pictures and pages as arrays, and montages in files. Colours are OpenCV's BGR.

Text in any script is drawn here, for matplotlib's figures too. OpenCV's font "uni" has Latin, Cyrillic, Greek,
Hiragana, Chinese and Korean characters. Arabic and Hebrew, which OpenCV would draw from left to right, are drawn with
matplotlib's font. A character that the font lacks, such as an emoji, becomes LACKING.
"""

import contextlib
import functools
import math
import os
import re
import unicodedata
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import cv2
import imutils
import numpy as np
from rich.cells import cell_len, set_cell_size

from neural_lib.system.files import write_file

# The formats that cv2.imencode writes in the wheels of opencv-contrib-python.
SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp")
TILE_WIDTH = 168  # pixels: 28 enlarged 6 times, so that each pixel of the image is a square
PAGE_SIDE = 1600  # longest side of an annotated page that is not enlarged, pixels
LEGIBLE = 60  # pixels; a page with smaller characters is enlarged
MONTAGE_WIDTH = 1800  # pixels
LINE_HEIGHT = 30  # height of a line of text, pixels
FONT_SIZE, SMALLEST_FONT, SMALLEST_LABEL = 20, 8, 11  # pixels; a label stands at a box of a page
LONGEST_NAME = 24  # columns of a class name in tables and pictures; a Hiragana takes two
SHORTEST = 8  # columns, to which text is shortened at most
LACKING = "\N{WHITE SQUARE}"  # "?" is the mark of an unsure answer
MARGIN = 6  # pixels on either side of a line
GREEN, RED, GREY, BACKGROUND = (90, 220, 90), (90, 90, 255), (200, 200, 200), (32, 32, 32)
WHITE, DARK = (255, 255, 255), (64, 64, 64)
AMBER, DARK_AMBER, DARK_GREEN = (60, 190, 255), (0, 90, 200), (60, 120, 0)
DARK_RED, DARK_GREY, DARK_BLUE = (30, 20, 190), (110, 110, 110), (150, 80, 20)


def annotate_image(
    image: np.ndarray, predicted: str, probability: float, truth: str, scale: int = 1, caption: str = ""
) -> np.ndarray:
    """Draw one image enlarged, with the predicted name and its probability below it.

    image: uint8 (H, W) or, in RGB, (H, W, 3). predicted, truth: names, any script. probability: 0 to 1. caption: a
    third line, such as the name of a file.
    Returns uint8 BGR, scale * TILE_WIDTH wide. The text is green if right, and red with the truth below it if wrong.
    """
    right, predicted, truth = predicted == truth, shortened(predicted), shortened(truth)
    lines = [(f"{predicted}  {percent(probability)}", GREEN if right else RED)]
    lines.append(("" if right else f"truth: {truth}", GREY))
    lines += [(caption, GREY)] if caption else []
    return np.vstack([fitted(image, scale * TILE_WIDTH), _text(lines, scale * TILE_WIDTH, scale)])


def annotate_picture(
    picture: np.ndarray,
    name: str,
    probability: float,
    caption: str,
    seen: np.ndarray | None = None,
    heat: np.ndarray | None = None,
    scale: int = 1,
    is_sure: bool = True,
) -> np.ndarray:
    """Draw a user's picture, with the predicted name, its probability and a caption below it.

    picture: uint8 RGB (H, W, 3), shown whole. probability: 0 to 1. seen: the network's input, uint8 (H, W) or, in RGB,
    (H, W, 3), to be shown on the right. heat: map (h, w) of the places of `seen` that decided, 0 to 1, to be shown over
    it, right of it. is_sure: False marks the answer.
    Returns uint8 BGR, scale * TILE_WIDTH wide, and as wide again and a gap with each of `seen` and `heat`.
    """
    side = scale * TILE_WIDTH
    shown = fitted(picture, side)
    for panel in (seen, None if heat is None else draw_heat(seen, heat)):
        if panel is not None:
            gap = np.full((side, scale * MARGIN, 3), BACKGROUND, np.uint8)
            shown = np.hstack([shown, gap, fitted(panel, side)])
    answer = (f"{shortened(name)}  {percent(probability, is_sure)}", WHITE if is_sure else AMBER)
    return np.vstack([shown, _text([answer, (caption, GREY)], shown.shape[1], scale)])


def draw_heat(image: np.ndarray, heat: np.ndarray) -> np.ndarray:
    """Draw a heat map over an image that becomes grey and half as bright, so that it can still be seen.

    image: uint8 (H, W) or, in RGB, (H, W, 3). heat: (h, w), 0 to 1, spread over the whole image. Cold places stay dark;
    the hotter, the brighter, from violet through orange to yellow. Returns uint8 RGB (H, W, 3).
    """
    grey = image if image.ndim == 2 else cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
    smooth = cv2.resize(heat.astype(np.float32), grey.shape[::-1], interpolation=cv2.INTER_CUBIC)
    levels = np.round(255 * smooth.clip(0, 1)).astype(np.uint8)  # cubic interpolation leaves 0 to 1
    colour = cv2.cvtColor(cv2.applyColorMap(levels, cv2.COLORMAP_INFERNO), cv2.COLOR_BGR2RGB)
    return cv2.addWeighted(cv2.cvtColor(grey, cv2.COLOR_GRAY2RGB), 0.5, colour, 0.5, 0)


def annotate_page(
    picture: np.ndarray,
    boxes: Sequence[Sequence[float]],
    texts: Sequence[str],
    colours: Sequence[tuple],
    caption: str = "",
) -> np.ndarray:
    """Draw a page with a box around each of its characters, and a text at each box: uint8 BGR (H, W, 3).

    picture: uint8 RGB (H, W, 3). boxes: left, top, width, height of each character, pixels of the picture. colours: of
    each box and its text, dark ones. A box without a text is not drawn, but kept free of other texts. caption: lines of
    text above the page. The page is enlarged if its characters are small, and a text is drawn smaller if it would reach
    the text of the next box.
    """
    typical = np.median([max(box[2:]) for box in boxes]) if len(boxes) else LEGIBLE
    scale = max(1.0, min(LEGIBLE / typical, 1.5 * PAGE_SIDE / max(picture.shape[:2])))
    canvas = cv2.cvtColor(picture, cv2.COLOR_RGB2BGR)
    canvas = cv2.resize(canvas, None, fx=scale, fy=scale, interpolation=cv2.INTER_CUBIC)
    size = round(np.clip(0.2 * scale * typical, SMALLEST_LABEL, 24))
    thickness = 1 if size < 16 else 2
    corners = [(scale * x, scale * y, scale * (x + w), scale * (y + h)) for x, y, w, h in boxes]
    corners = np.round(np.array(corners).reshape(-1, 4)).astype(int)
    largest = size
    for (left, top, right, bottom), text, colour in zip(corners.tolist(), texts, colours, strict=True):
        if not text:
            continue
        cv2.rectangle(canvas, (left - 4, top - 4), (right + 4, bottom + 4), colour, thickness)
        is_next = (corners[:, 0] > left) & (np.abs(corners[:, 1] - top) < bottom - top)
        room = min(corners[is_next, 0], default=np.inf) - left - 2
        size = largest
        while size > SMALLEST_LABEL and _text_width(text, size) + 8 > room:
            size -= 1
        width = _text_width(text, size) + 8
        x, y = min(max(0, left - 4), max(0, canvas.shape[1] - width)), max(size + 6, top - 4)
        for baseline in (y, bottom + 10 + size):  # below the box if it would hide another character above it
            is_hidden = (corners[:, 0] < x + width) & (x < corners[:, 2])
            is_hidden &= (corners[:, 1] < baseline) & (baseline - size - 6 < corners[:, 3])
            if baseline <= canvas.shape[0] and not is_hidden.any():
                y = baseline
                break
        cv2.rectangle(canvas, (x, y - size - 6), (x + width, y), colour, cv2.FILLED)
        _put_text(canvas, text, (x + 4, y - 4 - size // 8), WHITE, size)
    lines = [(line, GREY) for line in caption.splitlines()]
    return np.vstack([_text(lines, canvas.shape[1]), canvas]) if lines else canvas


def titled_montage(tiles: list[np.ndarray], text: str) -> np.ndarray:
    """Draw a line of text above a montage of the tiles, of which there may be none."""
    below = montage(tiles) if tiles else np.zeros((0, 0, 3), np.uint8)
    width = max(4 * TILE_WIDTH, below.shape[1])  # room for the text even with few tiles
    right = width - below.shape[1]
    return np.vstack([_text([(text, GREY)], width), np.pad(below, ((0, 0), (0, right), (0, 0)))])


def glyph(text: str, height: int = 48) -> np.ndarray:
    """Draw a text in black on transparent ground: uint8 RGBA (height, width, 4).

    Plots use it for characters that matplotlib's font lacks, such as Hiragana.
    """
    size = height * 2 // 3
    ink = np.zeros((height, max(1, _text_width(text, size)), 3), np.uint8)
    _put_text(ink, text, (0, height * 3 // 4), WHITE, size)
    return np.dstack([np.zeros_like(ink), ink[..., 0]])


def shortened(text: str, width: int = LONGEST_NAME) -> str:
    """The text in at most `width` columns of a terminal: its first third and its end, with "..." between them."""
    if cell_len(text) <= width:
        return text
    head = set_cell_size(text, max(0, width - 3) // 3).rstrip()  # a space in place of half a Hiragana
    room = width - 3 - cell_len(head)
    end = next((text[start:] for start in range(len(text)) if cell_len(text[start:]) <= room), "")
    return f"{head}...{end}"


def fitted(image: np.ndarray, side: int) -> np.ndarray:
    """Resize a whole image, uint8 (H, W) or RGB (H, W, 3), into the middle of a square: uint8 BGR (side, side, 3)."""
    colour = cv2.cvtColor(image, cv2.COLOR_GRAY2BGR if image.ndim == 2 else cv2.COLOR_RGB2BGR)
    scale = side / max(image.shape[:2])
    height, width = (max(1, round(length * scale)) for length in image.shape[:2])
    top, left = (side - height) // 2, (side - width) // 2
    square = np.full((side, side, 3), DARK, np.uint8)
    how = cv2.INTER_NEAREST if scale >= 1 else cv2.INTER_AREA
    square[top : top + height, left : left + width] = cv2.resize(colour, (width, height), interpolation=how)
    return square


def montage(tiles: list[np.ndarray]) -> np.ndarray:
    """Put tiles of one size on one canvas, about as wide as high, but with at least 5 tiles in the first row.

    Fewer, if 5 were wider than MONTAGE_WIDTH.
    """
    height, width = tiles[0].shape[:2]
    columns = min(len(tiles), max(min(5, MONTAGE_WIDTH // width), math.ceil(math.sqrt(len(tiles) * height / width))))
    rows = math.ceil(len(tiles) / columns)
    framed = [cv2.copyMakeBorder(tile, 3, 3, 3, 3, cv2.BORDER_CONSTANT, value=(0, 0, 0)) for tile in tiles]
    return imutils.build_montages(framed, (width + 6, height + 6), (columns, rows))[0]


def encode(image: np.ndarray, suffix: str) -> bytes:
    """Encode a BGR picture as the content of a file. suffix: one of SUFFIXES."""
    return cv2.imencode(suffix, image)[1].tobytes()


def percent(probability: float, is_sure: bool = True) -> str:
    """Format a probability, 0 to 1: "97.5%", or "40.0% ?" if the answer isn't sure."""
    return f"{probability:.1%}{'' if is_sure else ' ?'}"


def _text(lines: list[tuple[str, tuple]], width: int, scale: int = 1) -> np.ndarray:
    # Lines of text, each with its colour: BGR (len(lines) * scale * LINE_HEIGHT, width, 3). A long text is drawn
    # smaller until it fits.
    canvas = np.full((len(lines) * scale * LINE_HEIGHT, width, 3), BACKGROUND, np.uint8)
    room = width - 2 * scale * MARGIN
    for number, (text, colour) in enumerate(lines):
        size = scale * FONT_SIZE
        while _text_width(text, size) > room and size > scale * SMALLEST_FONT:
            size -= 1
        whole, columns = text, cell_len(text)
        while _text_width(text, size) > room and columns > SHORTEST:  # too long even in the smallest letters
            columns -= 1
            text = shortened(whole, columns)
        baseline = scale * (number * LINE_HEIGHT + (LINE_HEIGHT + FONT_SIZE) // 2 - 3)
        _put_text(canvas, text, (scale * MARGIN, baseline), colour, size)
    return canvas


def _put_text(canvas: np.ndarray, text: str, origin: tuple[int, int], colour: tuple, size: int) -> None:
    # Draw a text on a canvas, BGR (H, W, 3). origin: left end of its baseline, x and y. size: of the font, pixels.
    if not _is_right_to_left(text):
        cv2.putText(canvas, _with_squares(text), origin, colour, cv2.FontFace("uni"), size)
        return
    ink, ascent = _right_to_left(text, size)
    left, top = origin[0], origin[1] - ascent
    rows, columns = slice(max(0, top), max(0, top + len(ink))), slice(left, left + ink.shape[1])
    part = canvas[rows, columns]
    ink = ink[rows.start - top :][: len(part), : part.shape[1], None] / 255
    part[:] = np.round(part * (1 - ink) + ink * colour)


def _text_width(text: str, size: int) -> int:
    if _is_right_to_left(text):
        return _right_to_left(text, size)[0].shape[1]
    x, _, width, _ = cv2.getTextSize((0, 0), _with_squares(text), (0, 0), cv2.FontFace("uni"), size)
    return x + width


def _is_right_to_left(text: str) -> bool:
    return any(unicodedata.bidirectional(each) in ("R", "AL") for each in text)


def _right_to_left(text: str, size: int) -> tuple[np.ndarray, int]:
    # A text with Arabic or Hebrew characters, joined and ordered: uint8 (h, w), and the rows above its baseline.
    from matplotlib import font_manager  # half a second to import

    font = font_manager.get_font(font_manager.findfont(font_manager.FontProperties()))
    font.set_size(size, 72)
    font.set_text("".join(each if font.get_char_index(ord(each)) else LACKING for each in text))
    font.draw_glyphs_to_bitmap()
    ink = np.array(font.get_image())
    return ink, len(ink) - round(font.get_descent() / 64)


def can_draw(text: str) -> bool:
    """False if a character of a text is drawn as LACKING, as no font has it. Arabic and Hebrew are not looked up."""
    return _is_right_to_left(text) or LACKING not in _with_squares(text)


def _with_squares(text: str) -> str:
    # The text with LACKING in the place of the characters that OpenCV's font lacks.
    return text if text.isascii() else "".join(each if _has_character(each) else LACKING for each in text)


@functools.cache
def _has_character(character: str) -> bool:
    # True if OpenCV's font has a character. If not, it draws a question mark.
    drawn, unknown = np.zeros((2, 40, 60), np.uint8)
    for canvas, text in ((drawn, character), (unknown, "?")):
        cv2.putText(canvas, text, (5, 30), (255,), cv2.FontFace("uni"), 24)
    return character == "?" or not np.array_equal(drawn, unknown)


MARK = b"neural_lib montage"  # written at the end of each file, which readers of pictures ignore
PAGE = 100  # tiles per file: with tiles of annotate_image and the heading a file has 2,088 x 2,148 pixels


def write_picture(path: Path, picture: np.ndarray) -> None:
    """Write a BGR picture so that is_montage knows it. Raises OSError if the file can't be written."""
    write_file(path, lambda: encode(picture, path.suffix) + MARK)


def is_montage(path: Path) -> bool:
    """True if write_picture or a Montage wrote this file."""
    with contextlib.suppress(OSError), path.open("rb") as file:
        file.seek(-len(MARK), os.SEEK_END)  # raises OSError if the file is shorter
        return file.read() == MARK
    return False


def is_output(path: Path, output: Path) -> bool:
    """True if a Montage for the file `output` may write to this path, as in p.png and p-page-1.png."""
    stem, suffix = re.escape(output.stem), re.escape(output.suffix)
    is_name = re.fullmatch(rf"{stem}(-(page|sheet)-\d+)?{suffix}", path.name)
    return bool(is_name) and path.parent == output.parent


class Montage:
    """Collects tiles of one size and annotated pages, and writes them; holds at most PAGE tiles and one page in memory.

    path: the file for up to PAGE tiles, say p.png; more tiles are written to p-page-1.png, p-page-2.png ... Each
    annotated page is a separate file, p-sheet-1.png ..., or `path` if there is nothing else.
    The methods raise OSError if a file can't be written.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.tiles: list[np.ndarray] = []
        self.sheet: np.ndarray | None = None  # the last annotated page, written when it is known not to be the only one
        self.counts: Counter[str] = Counter()  # numbered files of each kind
        self.written: list[Path] = []

    def add(self, tile: np.ndarray) -> None:
        """Add a tile."""
        if len(self.tiles) == PAGE:
            self._write_tiles()
        self.tiles.append(tile)

    def add_sheet(self, sheet: np.ndarray) -> None:
        """Add an annotated page."""
        if self.sheet is not None:
            self._write(self.sheet, "sheet")
        self.sheet = sheet

    def finish(self) -> list[Path]:
        """Write everything that is not written yet; returns the paths of all files."""
        if self.counts["page"]:
            self._write_tiles()
        elif self.tiles:
            self._write(montage(self.tiles))
        if self.sheet is not None:
            self._write(self.sheet, "sheet" if self.written else "")
        return self.written

    def _write_tiles(self) -> None:
        first = self.counts["page"] * PAGE + 1
        self._write(titled_montage(self.tiles, f"{first:,} to {first + len(self.tiles) - 1:,}"), "page")
        self.tiles = []

    def _write(self, picture: np.ndarray, kind: str = "") -> None:
        # kind: of a numbered file; empty for `path`.
        path = self.path
        if kind:
            self.counts[kind] += 1
            path = path.with_stem(f"{path.stem}-{kind}-{self.counts[kind]}")
        write_picture(path, picture)
        self.written.append(path)
