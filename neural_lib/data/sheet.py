"""Sheets of boxes to write in: what is where on the paper, the code that says so, and how sheets are found on pictures.

A sheet is A4 paper with an ArUco marker (an AprilTag) in each corner, which gives its position and turn on a scan or a
photo, and a QR code, which says what belongs into each box; so no other file is needed to read it. Lengths on paper are
in millimetres from its upper left corner.
"""

import functools
import itertools
import re
import unicodedata
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import NamedTuple

import cv2
import numpy as np

from neural_lib.data.catalog import is_text
from neural_lib.data.ink import to_grey
from neural_lib.data.page import Character, find_characters

PAPER = (210.0, 297.0)  # A4, mm
MARKER, MARGIN = 12.0, 10.0  # side of a marker, and its distance from the paper's edges, mm
CORNERS = ((MARGIN, MARGIN), (PAPER[0] - MARGIN - MARKER, MARGIN),
           (PAPER[0] - MARGIN - MARKER, PAPER[1] - MARGIN - MARKER),
           (MARGIN, PAPER[1] - MARGIN - MARKER))  # upper left corner of each marker, clockwise, mm  # fmt: skip
CODE, CODE_AT = 28.0, (154.0, MARGIN)  # side and upper left corner of the QR code, mm
COLUMNS, ROWS = 10, 10
SIDE, PITCH, FIRST = 15.5, (17.5, 21.5), (18.5, 46.0)  # of a box; from box to box; upper left corner of the first, mm
MAX_PER_PAGE = COLUMNS * ROWS
MAX_CODE = 220  # bytes; the modules of a QR code of more are too small for a photo
SIGNATURE = "sheet1"  # at the beginning of a code; change it with the layout
DICTIONARY = cv2.aruco.getPredefinedDictionary(cv2.aruco.DICT_APRILTAG_36h11)
NUMBERED = 100  # page numbers that markers tell apart
LONGEST_SIDE = 4096  # pixels to which a scan or a photo is reduced before sheets are looked for
RESOLUTION = 8.0  # pixels per mm of a sheet's picture
BOX = round(SIDE * RESOLUTION)  # side of a box in it, pixels
CODE_RESOLUTION = 16.0  # ... of its code
MIN_MARKERS = 3
MAX_CHOICES = 1000  # ways to combine the markers of several sheets of one page
MAX_ERROR = 1.0  # mm between the markers' corners and where they should be, root mean square
MAX_BEND = 3.0  # mm by which a box is looked for beside its place
MIN_LINE = 3.0  # grey levels by which a box's side must be darker than its ground
# A straight line from corner to corner crosses a box out. Chosen so that "/" and X of 0.75 of a box's side are none.
CROSSED_FROM = 0.02  # how near to the corners ink is looked for along the line, share of its length
CROSSED_OFF = 0.14  # how far from a corner its ends may be, to either side, sides of a box
CROSSED_SHARE = 0.96  # share of the line with ink from which the box is crossed out
SMALL_BOX = 64  # pixels to which a box is reduced to look for that line
SEEN_FROM = 0.3  # ink of a pixel, 0 to 1
SCRIBBLED = 0.45  # share of a box that is ink from which it is crossed out
# Two pictures show the same sheet if the ink in their boxes is alike. Sheets of two writers come nearest to that if
# they have few boxes of simple signs, such as 1.
SKETCH = 12  # pixels to which a box is reduced to compare it
INSIDE = round(0.8 * BOX)  # side of the part that is compared, without the box's lines, pixels
ALIKE_FROM = 0.94  # correlation, mean over the boxes that either has
MIN_WRITTEN, MIN_LEFT = 3, 2  # boxes, and those that are compared; fewer may be alike on sheets of two writers


class SheetPage(NamedTuple):
    """A page of a sheet: the boxes that it has."""

    number: int  # from 1
    pages: int  # of the sheet
    first: int  # number of its first box, from 1; boxes are counted on from page to page
    count: int  # boxes
    copies: int  # boxes for each label
    labels: tuple[str, ...]  # those that belong to its boxes, in order; none on an answer sheet

    def label(self, number: int) -> str:
        """The label of a box; "" on an answer sheet. number: one of self.numbers."""
        return self.labels[(number - 1) // self.copies - (self.first - 1) // self.copies] if self.labels else ""

    @property
    def numbers(self) -> range:
        """The numbers of its boxes."""
        return range(self.first, self.first + self.count)

    @property
    def boxes(self) -> np.ndarray:
        """Its boxes in reading order: (count, 4), left, top, width, height, mm."""
        rows, columns = np.divmod(np.arange(self.count), COLUMNS)
        sides = np.full(self.count, SIDE)
        return np.column_stack([FIRST[0] + PITCH[0] * columns, FIRST[1] + PITCH[1] * rows, sides, sides])

    @property
    def markers(self) -> list[int]:
        """The identifiers of its markers, clockwise from the upper left corner."""
        return [len(CORNERS) * ((self.number - 1) % NUMBERED) + corner for corner in range(len(CORNERS))]

    @property
    def code(self) -> str:
        """The text of its QR code."""
        head = " ".join(map(str, (SIGNATURE, self.number, self.pages, self.first, self.count, self.copies)))
        return "\n".join([head, *self.labels])

    @classmethod
    def of_code(cls, code: str) -> "SheetPage | None":
        """The page that a code describes; None if it is another program's, or damaged."""
        head, *labels = code.split("\n")
        signature, *numbers = head.split(" ")
        if signature != SIGNATURE or len(numbers) != 5 or not all(map(str.isdecimal, numbers)):
            return None
        page = cls(*map(int, numbers), tuple(labels))
        if not 0 < page.count <= MAX_PER_PAGE or not 0 < page.number <= page.pages or min(page.first, page.copies) < 1:
            return None
        needed = (page.first + page.count - 2) // page.copies - (page.first - 1) // page.copies + 1
        are_possible = len(labels) in (0, needed) and all(label and is_text(label) for label in labels)
        return page if are_possible else None


def pages_of(labels: Sequence[str], copies: int) -> list[SheetPage]:
    """The pages of a sheet with `copies` boxes for each label in turn.

    Without labels it is an answer sheet of `copies` boxes. A page ends where its boxes are used up, or its code would
    have more than MAX_CODE bytes.
    """
    total, ranges, first = copies * max(1, len(labels)), [], 1

    def page(number: int, pages: int, first: int, count: int) -> SheetPage:
        on_page = labels[(first - 1) // copies : (first + count - 2) // copies + 1]
        return SheetPage(number, pages, first, count, copies, tuple(on_page))

    while first <= total:
        count = min(MAX_PER_PAGE, total - first + 1)
        while count > 1 and len(page(999, 999, first, count).code.encode()) > MAX_CODE:
            count -= 1
        ranges.append((first, count))
        first += count
    return [page(number, len(ranges), *each) for number, each in enumerate(ranges, start=1)]


def labels_in(text: str) -> list[str]:
    """The labels in a text, which spaces or commas separate; the characters of a single word: "abc" are three labels.

    A comma is a label itself if it stands alone: "1 2 ,".
    """
    text = unicodedata.normalize("NFC", text)
    if re.search(r"[^\s,、][,、]+\s*[^\s,、]", text):
        text = re.sub(r"(?<=[^\s,、])[,、]+", " ", text)
    labels = text.split()
    if len(labels) > 1 or not labels:
        return labels
    characters: list[str] = []
    for each in labels[0]:
        if characters and unicodedata.combining(each):  # a mark that combines with the character before it
            characters[-1] += each
        else:
            characters.append(each)
    return characters


# --- on pictures ---


class Sheet(NamedTuple):
    """A sheet that was found on a picture: a page and a level picture of it, or the reason why it can't be used."""

    page: SheetPage | None = None
    picture: np.ndarray | None = None  # RGB, uint8 (H, W, 3), RESOLUTION pixels per mm
    boxes: np.ndarray | None = None  # of the page on its picture, (count, 4): left, top, width, height, pixels
    reason: str = ""


class Box(NamedTuple):
    """A box of a sheet and what was written in it."""

    number: int
    label: str
    character: Character | None  # None if it is empty
    is_crossed_out: bool = False


def find_sheets(picture: np.ndarray) -> list[Sheet]:
    """Find the sheets on a scan or a photo, whatever their turn and perspective; none if no marker is seen.

    picture: RGB, uint8 (H, W, 3).
    """
    grey = to_grey(picture)
    parameters = cv2.aruco.DetectorParameters()
    parameters.cornerRefinementMethod = cv2.aruco.CORNER_REFINE_SUBPIX
    found, identifiers, _ = cv2.aruco.ArucoDetector(DICTIONARY, parameters).detectMarkers(grey)
    seen: dict[int, list[list[np.ndarray]]] = {}  # page number modulo NUMBERED -> for each corner the markers seen
    for points, identifier in zip(found, [] if identifiers is None else identifiers.ravel().tolist(), strict=True):
        number, corner = divmod(identifier, len(CORNERS))
        if number < NUMBERED:
            seen.setdefault(number, [[] for _ in CORNERS])[corner].append(points.reshape(4, 2))
    sheets = [(number, each) for number, corners in seen.items() for each in _sheets_of(corners)]
    sheets.sort(key=lambda each: np.mean([one for one in each[1] if one is not None]))  # from the upper left
    return [_sheet(picture, number, each) for number, each in sheets]


def _sheets_of(corners: list[list[np.ndarray]]) -> Iterator[list[np.ndarray | None]]:
    # The markers of each sheet, one for each corner or None. corners: for each corner the markers that are seen, more
    # than one if there are several sheets of a page: those that lie as on one sheet belong together.
    while any(corners):
        best = _best_pick([[*each] or [None] for each in corners])
        if max(map(len, corners)) > 1 and all(corners) and _placed(best)[1] > MAX_ERROR:
            best = _best_pick([[*each, None] for each in corners], lacking=1)  # each sheet may lack another marker
        yield best
        corners = [[each for each in some if each is not one] for some, one in zip(corners, best, strict=True)]


def _best_pick(choices: list[list[np.ndarray | None]], lacking: int = len(CORNERS)) -> list[np.ndarray | None]:
    # A marker of each corner, or None, which lie most nearly as on a sheet. lacking: corners without one, at most.
    picks = (pick for pick in itertools.product(*choices) if sum(each is None for each in pick) <= lacking)
    return list(min(itertools.islice(picks, MAX_CHOICES), key=lambda pick: _placed(pick)[1]))


def _placed(markers: Sequence[np.ndarray | None]) -> tuple[np.ndarray, float]:
    # The projective map (3, 3) from mm on the paper to pixels, and the markers' root mean square error, mm.
    corners = np.array([[0, 0], [1, 0], [1, 1], [0, 1]]) * MARKER
    paper = np.concatenate([corners + at for at, seen in zip(CORNERS, markers, strict=True) if seen is not None])
    pixels = np.concatenate([seen for seen in markers if seen is not None])
    back, _ = cv2.findHomography(pixels, paper)
    if back is None:
        return np.eye(3), np.inf
    off = cv2.perspectiveTransform(pixels[None].astype(np.float64), back)[0] - paper
    return np.linalg.inv(back), float(np.sqrt(np.square(off).sum(1).mean()))


def _sheet(picture: np.ndarray, number: int, markers: list[np.ndarray | None]) -> Sheet:
    count = sum(each is not None for each in markers)
    if count < MIN_MARKERS:
        return Sheet(
            reason=f"only {count} of the 4 markers in a sheet's corners can be seen, and {MIN_MARKERS} are needed"
        )
    to_pixels, error = _placed(markers)
    if error > MAX_ERROR:
        return Sheet(reason="a sheet is bent or creased; lay it flat")
    page = _read_code(picture, to_pixels)
    if page is None or (page.number - 1) % NUMBERED != number:
        return Sheet(reason="the square code beside a sheet's upper right corner can't be read")
    left, top, width, height = page.boxes.T
    ends = np.stack([np.column_stack(each) for each in ((left, top), (left + width, top + height))])
    pixels = cv2.perspectiveTransform(ends, to_pixels)
    if ((pixels < 0) | (pixels > picture.shape[1::-1])).any():
        return Sheet(reason="a part of a sheet's boxes is outside of the picture")
    flat = _flat(picture, to_pixels, (0, 0), PAPER, RESOLUTION)
    return Sheet(page, flat, _aligned(to_grey(flat), page.boxes * RESOLUTION))


def _aligned(grey: np.ndarray, boxes: np.ndarray) -> np.ndarray:
    # Move boxes to their printed lines, from which they are off on a sheet that isn't flat. boxes: (N, 4), see Sheet.
    reach, middles = round(MAX_BEND * RESOLUTION), boxes[:, :2] + boxes[:, 2:] / 2
    x, y = (middles / grey.shape[::-1] * 2 - 1).T
    terms = np.column_stack([np.ones(len(boxes)), x, y, x * x, x * y, y * y])
    terms = terms[:, : 6 if len(boxes) >= 20 else 3 if len(boxes) >= 8 else 1]
    moved = boxes.copy()
    for axis, view in enumerate((grey, grey.T)):
        offsets, is_seen = np.zeros(len(boxes)), np.zeros(len(boxes), bool)
        for number, box in enumerate(np.round(boxes).astype(int)):
            first, length, across, side = box[axis], box[2 + axis], box[1 - axis], box[3 - axis]
            part = view[across + side // 8 : across + side - side // 8, first - reach : first + length + reach + 1]
            # A side of the box is dark along its whole length, and ink hardly is.
            dark = cv2.blur(np.float32(np.median(part) - np.percentile(part, 75, axis=0))[None], (3, 1))[0]
            pairs = np.minimum(dark[: 2 * reach + 1], dark[length:][: 2 * reach + 1])
            offsets[number], is_seen[number] = pairs.argmax() - reach, pairs.max() > MIN_LINE
        for _ in range(3):
            if np.count_nonzero(is_seen) < 2 * terms.shape[1]:
                break
            smooth = terms @ np.linalg.lstsq(terms[is_seen], offsets[is_seen], rcond=None)[0]
            moved[:, axis] = boxes[:, axis] + smooth
            is_seen &= np.abs(offsets - smooth) <= max(2, 1.5 * np.median(np.abs(offsets - smooth)[is_seen]))
    return moved


def _flat(
    picture: np.ndarray, to_pixels: np.ndarray, at: tuple[float, float], size: tuple[float, float], resolution: float
) -> np.ndarray:
    # A part of the paper as if it lay level under the camera. at, size: mm; resolution: pixels per mm.
    scale = np.array([[1 / resolution, 0, at[0]], [0, 1 / resolution, at[1]], [0, 0, 1]])
    scale[:2, 2] += 0.5 / resolution  # middles of pixels
    shape = tuple(round(length * resolution) for length in size)
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    return cv2.warpPerspective(picture, to_pixels @ scale, shape, flags=flags, borderMode=cv2.BORDER_REPLICATE)


def _read_code(picture: np.ndarray, to_pixels: np.ndarray) -> SheetPage | None:
    quiet = 2 + MAX_BEND  # mm around the code
    at, size = tuple(each - quiet for each in CODE_AT), (CODE + 2 * quiet,) * 2
    flat = to_grey(_flat(picture, to_pixels, at, size, CODE_RESOLUTION))
    detector = cv2.QRCodeDetector()
    for sigma in (0, 2, 4):
        view = cv2.GaussianBlur(flat, (0, 0), sigma) if sigma else flat
        for each in (view, cv2.threshold(view, 0, 255, cv2.THRESH_OTSU)[1]):
            text, *_ = detector.detectAndDecode(each)
            if text and (page := SheetPage.of_code(text)):
                return page
    return None


def read_boxes(sheet: Sheet) -> list[Box]:
    """The boxes of a sheet in order, each with the character in it."""
    characters = find_characters(to_grey(sheet.picture), "yes", boxes=sheet.boxes).characters
    by_place = {each.place.number: each for each in characters}
    boxes = []
    for place, (number, box) in enumerate(zip(sheet.page.numbers, sheet.boxes, strict=True), start=1):
        character = by_place.get(place)
        is_crossed = character is not None and is_crossed_out(character, box)
        boxes.append(Box(number, sheet.page.label(number), character, is_crossed))
    return boxes


def is_crossed_out(character: Character, box: np.ndarray) -> bool:
    """True if the ink is a line from corner to corner of its box, or covers much of it. box: as in Sheet.boxes."""
    side = SMALL_BOX
    scale = side / box[2:]
    left, top = (np.array(character.box[:2]) - box[:2]) * scale
    move = np.array([[scale[0], 0, left], [0, scale[1], top]])
    ink = cv2.warpAffine(character.ink, move, (side, side), flags=cv2.INTER_AREA) > SEEN_FROM
    if ink.mean() > SCRIBBLED:
        return True
    near = cv2.dilate(ink.astype(np.uint8), np.ones((3, 3), np.uint8))  # a line by hand isn't quite straight
    rows, columns = _diagonals()
    return max(view[rows, columns].mean(1).max() for view in (near, near[:, ::-1])) >= CROSSED_SHARE


@functools.cache
def _diagonals() -> tuple[np.ndarray, np.ndarray]:
    # The rows and columns of the pixels of lines from about the upper left to about the lower right corner of a box,
    # each (lines, SMALL_BOX).
    along = np.linspace(CROSSED_FROM, 1 - CROSSED_FROM, SMALL_BOX)
    ends = np.linspace(-CROSSED_OFF, CROSSED_OFF, 8)
    off = (ends[:, None, None] * (1 - along) + ends[:, None] * along).reshape(-1, SMALL_BOX)
    pixels = [np.floor((along + each) * SMALL_BOX).astype(int) for each in (-off / 2, off / 2)]
    return tuple(each.clip(0, SMALL_BOX - 1) for each in pixels)


def sketch_of(image: np.ndarray) -> np.ndarray:
    """A coarse sketch of a box's ink: a vector of mean 0 and length 1, float32 (SKETCH * SKETCH,).

    image: dark on light, uint8 (S, S), the box in its middle. The dot product of two sketches is their correlation.
    """
    edge = max(0, (len(image) - INSIDE) // 2)
    inside = image[edge : edge + INSIDE, edge : edge + INSIDE].astype(np.float32)
    blurred = cv2.GaussianBlur(inside, (0, 0), INSIDE / SKETCH / 2)
    coarse = cv2.resize(blurred, (SKETCH, SKETCH), interpolation=cv2.INTER_AREA)
    sketch = coarse.ravel() - coarse.mean()
    return sketch / max(np.linalg.norm(sketch), 1e-3)


def is_same_sheet(
    new: Mapping[int, np.ndarray], known: Mapping[int, np.ndarray], deleted: Collection[int] = ()
) -> bool:
    """True if two pictures show the same sheet, judged by the sketches of its written boxes, by number.

    deleted: numbers that are not compared, because the known picture's characters were deleted.
    """
    left = {number: sketch for number, sketch in new.items() if number not in deleted}
    return len(new) >= MIN_WRITTEN and len(left) >= MIN_LEFT and likeness(left, known) >= ALIKE_FROM


def likeness(one: Mapping[int, np.ndarray], other: Mapping[int, np.ndarray]) -> float:
    """The mean correlation of the sketches of two sheets, by number; a box that only one of them has counts as 0."""
    total = sum(float(one[each] @ other[each]) for each in one.keys() & other.keys())
    return total / max(1, len(one.keys() | other.keys()))
