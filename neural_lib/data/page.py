"""Find the characters on a page: remove the paper, group strokes into characters, sort these in reading order.

A page is represented by its depth, uint8 (H, W): the number of grey levels by which each pixel is darker than the
ground (lighter, if the ink is light). Thresholds are relative to the noise of the ground, the depth of the ink and the
size of the characters. They were chosen on composed pages; tests/pages.py measures how well they work.
"""

import itertools
import math
from typing import NamedTuple

import cv2
import numpy as np

from neural_lib.data import ink
from neural_lib.data.boxes import FEW_BOXES, find_boxes, reach_of, step_of
from neural_lib.data.pictures import reduced

SMALLEST = 12  # smallest longer side of a character, pixels
STEEPEST = 4.0  # largest angle by which a page may be turned, either way, degrees
ANGLE_STEP = 0.1  # degrees
EDGE_FROM = 0.7  # dark share of a side of the picture from which it is an edge of the scanner or the table
# The smallest measures of a printed line across the page.
LINE_COVERS = 0.5  # share of the page's width with pixels of the line, not counting columns in which thick ink hides it
LINE_REACHES = 0.6  # length from the first to the last pixel, as a share of the page's width
FINE = 40  # length divided by thickness
# Fewer lines than FEW_LINES must reach from border to border, because a 1 or a dash may fill most of its picture.
FEW_LINES = 3
FROM_BORDER_TO_BORDER = 0.95  # share of the page's width
# Characters that touch are found as one, whose length along its line is compared with the usual length.
CUT_FROM = 1.4  # length divided by the usual one from which its parts are cut out, too
LONG = 1.5  # ... from which it can hardly be one character
NARROW = 0.8  # smallest usual length divided by the line's height, or a 0 would be long among 1s
MIN_TO_COMPARE = 3  # characters on a page; of fewer no length is usual
# Printed boxes, in sides of a box or shares.
LARGEST = 1.4  # length of a character in a box
ASTRAY = 0.35  # length of ink outside of all boxes, but amid them, from which it may be a character of a missed box
MANY_ASTRAY = 0.1  # its share from which the page counts as one without boxes
# Ink of boxes, in sides of a box or shares.
BOX_LINE = 0.016  # how far from its place ink belongs to the line of a known box, to either side
BOX_REACH = 0.05  # how far a known box reaches beyond its lines
WHOLE_FROM = 0.75  # share of a stroke in one box from which all of it belongs there; other strokes are cut
MIN_LENGTH = 0.12  # length of the ink of a box that is not empty; a dot or a dash is a character, dust is not
MIN_AREA = 0.002  # ... and its area, in areas of a box
OFF_MIDDLE = 0.5  # ink of a pixel that costs a cut as much as to be half a character off the middle


class Place(NamedTuple):
    """The place of a character on its page, counted from 1; if the page has boxes, empty ones count, too.

    Rows are counted from the top and columns from the side where reading begins, whatever the order.
    """

    number: int  # in reading order
    row: int
    column: int


class Character(NamedTuple):
    """One character of a page, or several that touch."""

    box: tuple[int, int, int, int]  # bounding box of the ink in the picture: left, top, width, height, pixels
    ink: np.ndarray  # float32 (h, w), 0 is ground and 1 is ink, cut out along its bounding box
    parts: "tuple[Character, ...]" = ()  # if it is longer than usual along its line: cut at its thinnest places
    is_long: bool = False  # True if it is so long that it can hardly be one character
    place: Place | None = None  # None if the page has boxes and this is ink outside of them


class Page(NamedTuple):
    """The result of find_characters."""

    characters: list[Character]  # in reading order; may be empty
    is_plain: bool  # True if the page has no printed lines, boxes or dark edges
    boxes: np.ndarray  # the boxes for a character each, (N, 4): left, top, width, height, pixels, in reading order


def find_characters(
    grey: np.ndarray, invert: str = "auto", order: str = "rows", boxes: np.ndarray | None = None
) -> Page:
    """Find the characters of a page and sort them in reading order.

    grey: uint8 (H, W). invert: see ink.find_ink. order: "rows" (left to right, rows from top to bottom) or "columns"
    (top to bottom, columns from right to left). The page may be turned by up to STEEPEST degrees, lit unevenly, ruled
    or squared, and have its characters in boxes. Separate strokes are one character if the gap between them is small
    for the characters' size. If at least FEW_BOXES boxes of one size are printed in a grid, a character is the ink of a
    box, and other ink has no place; squared paper has no boxes.
    boxes: the printed boxes of a level page if they are known, (N, 4): left, top, width, height, pixels, in reading
    order: then ink elsewhere is no character.
    """
    depth, noise, has_ink = _depth(grey, invert)
    known = np.zeros((0, 4)) if boxes is None else np.asarray(boxes)
    if not has_ink:
        return Page([], is_plain=True, boxes=known)
    if boxes is not None:
        clean, lines = _without_known_boxes(depth, noise, known)
        groups, holders = _ink_of_boxes(clean, noise, lines, known)
        level, places = np.eye(2, 3), _places(_lines_of(known, order), order)
        found = [
            _cut_out(clean, noise, groups, each, level, order, math.inf)._replace(place=places[holder])
            for each, holder in enumerate(holders)
        ]
        return Page(found, is_plain=False, boxes=known)
    edges = _dark_edges(depth, noise)  # 1 in pixels outside of the page
    depth[edges > 0] = 0
    size = grey.shape[::-1]
    for angle in dict.fromkeys((_angle_of_lines(depth), 0.0)):
        turn = cv2.getRotationMatrix2D((size[0] / 2, size[1] / 2), angle, 1.0)
        turned = cv2.warpAffine(depth, turn, size)
        outside = cv2.warpAffine(edges, turn, size, flags=cv2.INTER_NEAREST, borderValue=1)
        clean, lines, boxes = _without_lines(turned, outside, noise)
        if lines.any():
            break  # otherwise the angle was that of strokes, so the page is not turned
    groups = _group_strokes(clean, noise, outside, lines, has_edges=edges.any())
    back = cv2.invertAffineTransform(turn)
    boxes, lines_of_boxes = _sorted_boxes(boxes, order)
    groups, holders, boxes = _in_boxes(groups, boxes)
    rows = _reading_order(groups, order)
    usual = _usual_lengths(groups, rows, order)
    places = _places(rows, order)
    in_order = [number for row in rows for number in row]
    if len(boxes):
        of_boxes = _places(lines_of_boxes, order)
        places = {number: of_boxes.get(holder) for number, holder in enumerate(holders.tolist())}
        in_order = _order_beside(groups, in_order, holders, boxes, lines_of_boxes, order)
        usual[holders >= 0] = math.inf
    characters = [
        _cut_out(clean, noise, groups, number, back, order, usual[number])._replace(place=places[number])
        for number in in_order
    ]
    return Page(characters, is_plain=not lines.any() and not edges.any(), boxes=_turned(boxes, back))


def _rectangle(width: int, height: int) -> np.ndarray:
    return cv2.getStructuringElement(cv2.MORPH_RECT, (width, height))


# --- the ground, its noise and its edges ---


def _depth(grey: np.ndarray, invert: str) -> tuple[np.ndarray, float, bool]:
    # The depth of each pixel, the standard deviation of the ground's noise (grey levels), and True if there is any ink.
    grey = grey.astype(np.float32)
    smooth = cv2.GaussianBlur(grey, (0, 0), 1.0)
    ground = np.float32(np.median(grey[::4, ::4]))
    if invert == "auto":
        difference = ink.lit_ground(grey, ground) - smooth
        invert = "no" if -difference.min() > difference.max() else "yes"
    sign = 1 if invert == "yes" else -1
    depth, contrast = sign * (ground - grey), float((sign * (ground - smooth)).max())

    # Subtract shadows. A morphological opening removes everything as narrow as strokes, so shadows remain.
    small = reduced(depth, 256)
    widest = 2 * (max(small.shape) // 16) + 1
    kernel = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (widest, widest))
    shade = cv2.morphologyEx(cv2.medianBlur(small, 3), cv2.MORPH_OPEN, kernel)
    is_bold = (shade > 0.5 * contrast).astype(np.uint8)  # no shadow but a dark edge or a very bold character
    shade[cv2.dilate(is_bold, kernel) > 0] = 0
    depth -= cv2.resize(cv2.GaussianBlur(shade, (0, 0), 2), grey.shape[::-1], interpolation=cv2.INTER_LINEAR)

    # Smooth grain and dither, no more than needed.
    sharp, noise = depth, _noise(depth)
    for sigma in (0.7, 1.4, 2.8):  # pixels
        if noise < contrast / 12:
            break
        depth = cv2.GaussianBlur(sharp, (0, 0), sigma)
        noise = _noise(depth)
    return depth.clip(0, 255).astype(np.uint8), noise, contrast >= _ink_threshold(noise)


def _noise(depth: np.ndarray) -> float:
    # The standard deviation of the ground: the first quartile of the standard deviations of blocks of 8x8 pixels.
    size = [max(1, length // 8) for length in depth.shape[::-1]]
    mean, square = (cv2.resize(each, size, interpolation=cv2.INTER_AREA) for each in (depth, depth * depth))
    return float(np.sqrt(np.percentile(np.maximum(square - mean * mean, 0), 25)))


def _ink_threshold(noise: float) -> float:
    # The depth from which a pixel is ink, grey levels.
    return max(ink.MIN_CONTRAST, ink.MIN_OF_NOISE * noise)


def _dark_edges(depth: np.ndarray, noise: float) -> np.ndarray:
    # A mask with 1 in the pixels of dark edges along the picture's border, uint8 (H, W).
    mask = np.zeros(depth.shape, np.uint8)
    dark = depth > _ink_threshold(noise)
    for turns in range(4):
        side, edge = np.rot90(dark, turns), np.rot90(mask, turns)  # views, with this side at the top
        run = np.where(side.all(0), side.shape[0], (~side).argmax(0))  # dark pixels from the top, for each column
        if (run > 0).mean() < EDGE_FROM:
            continue
        at, reach = np.arange(0, len(run), 8), len(run) // 8
        medians = [np.median(run[max(0, middle - reach) : middle + reach + 1]) for middle in at]
        # A character that touches the edge makes the run longer than nearby, so runs are limited by their median.
        run = np.minimum(run, 1.2 * np.interp(np.arange(len(run)), at, medians) + 4) + 3
        edge |= np.arange(side.shape[0])[:, None] < run
    return mask


# --- ruled and squared paper, and boxes ---


def _angle_of_lines(depth: np.ndarray) -> float:
    # The angle by which the page must be turned to make its printed lines level, degrees; 0 if it has none. The sums
    # along the page's rows change most from row to row if lines are level, and so do those along its columns.
    small = np.minimum(reduced(depth, 800), 60).astype(np.float32)  # limited, or ink would count for more than lines
    angles = np.arange(-STEEPEST, STEEPEST + ANGLE_STEP / 2, ANGLE_STEP)
    scores = np.zeros(len(angles))
    for view, sign in ((small, 1), (cv2.transpose(small), -1)):
        height, width = view.shape
        count = max(1, width // 8)
        blocks = cv2.resize(view, (count, height), interpolation=cv2.INTER_AREA)
        margin = int(width * math.tan(math.radians(STEEPEST)) / 2) + 2
        blocks = np.pad(blocks, ((margin, margin), (0, 0)))
        rows, middles = np.arange(margin, margin + height)[:, None], (np.arange(count) + 0.5) * width / count
        sharpness = np.zeros(len(angles))  # squared differences of neighbouring rows' sums
        for number, slope in enumerate(np.tan(np.radians(sign * angles))):
            shifts = np.round((middles - width / 2) * slope).astype(int)
            sharpness[number] = np.square(np.diff(blocks[rows + shifts, np.arange(count)].sum(1))).sum()
        median = np.median(sharpness)
        if sharpness.max() > 1.75 * median > 0:
            scores += sharpness / median
    return float(angles[scores.argmax()]) if scores.any() else 0.0


def _without_lines(depth: np.ndarray, outside: np.ndarray, noise: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    # The page's depth without lines and boxes, but with the strokes that cross them; a mask with 1 in the pixels of the
    # removed lines; and the insides of the boxes for a character each, (N, 4), in no order. outside: 1 in pixels
    # outside of the page.
    mask = _seen(depth, noise)
    longer = max(depth.shape)
    piece, thickest = max(24, round(0.012 * longer)), max(14, round(0.01 * longer))  # pixels
    across, level = _lines_across(mask, outside, piece, thickest)
    down, upright = map(cv2.transpose, _lines_across(cv2.transpose(mask), cv2.transpose(outside), piece, thickest))
    places = np.flatnonzero(level.any(1)), np.flatnonzero(upright.any(0))
    is_squared = all(each.size and np.ptp(each) > 0.75 * side for each, side in zip(places, mask.shape, strict=True))
    tries = []
    for thickest_piece in (1.5, 2.5):  # sides of neighbours may look like one that is thicker
        straight = _thin(across, thickest_piece) | cv2.transpose(_thin(cv2.transpose(down), thickest_piece))
        straight = cv2.morphologyEx(straight, cv2.MORPH_CLOSE, _rectangle(5, 5))
        cells = _cells(mask, straight, piece)
        tries.append((straight, cells, find_boxes(cells, mask, across, down)))
        if len(tries[-1][2]):
            break
    straight, cells, boxes = tries[-1] if len(tries[-1][2]) else tries[0]
    if not is_squared:
        sides = _sides_of_boxes(cells, straight, thickest) | _around_missed(boxes, cells, straight.shape)
        level, upright = level | (across & sides), upright | (down & sides)
    return *_erased(depth, mask, level, upright), boxes


def _seen(depth: np.ndarray, noise: float) -> np.ndarray:
    # A mask with 1 in the pixels that may be ink or a printed line.
    dark = depth[depth > _ink_threshold(noise)]
    faintest = max(4 * noise, 12, 0.12 * np.percentile(dark, 98) if dark.size else 0)
    return (depth > faintest).astype(np.uint8)


def _without_known_boxes(depth: np.ndarray, noise: float, boxes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    # The page's depth without the sides of boxes (N, 4), but with the strokes that cross them; and a mask with 1 in the
    # pixels of the removed sides.
    level, upright = np.zeros((2, *depth.shape), np.uint8)
    corners = np.round(np.column_stack([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]])).astype(int)
    half = max(1, round(BOX_LINE * float(np.median(boxes[:, 2:])))) if len(boxes) else 0
    for left, top, right, bottom in corners.tolist():
        for y in (top, bottom):
            level[max(0, y - half) : y + half + 1, max(0, left - half) : right + half + 1] = 1
        for x in (left, right):
            upright[max(0, top - half) : bottom + half + 1, max(0, x - half) : x + half + 1] = 1
    return _erased(depth, _seen(depth, noise), level, upright)


def _erased(
    depth: np.ndarray, mask: np.ndarray, level: np.ndarray, upright: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    # The page's depth without the ink of level and of upright lines, but with the strokes that cross them; and a mask
    # with 1 in the pixels of these lines. mask: see _seen.
    bands = [cv2.dilate(level, _rectangle(1, 5)) & mask, cv2.dilate(upright, _rectangle(5, 1)) & mask]
    rest = mask & ~(bands[0] | bands[1])
    ink_depth = np.percentile(depth[rest > 0], 90) if rest.any() else 255
    clean = depth.copy()
    for axis, (line, band) in enumerate(zip((level, upright), bands, strict=True)):
        line &= mask
        if not line.any():
            continue
        # A stroke crosses the line if there is ink on both sides of it. Pixels darker than the line are ink, too.
        thickness = line.sum() / max(1, np.count_nonzero(np.diff(line, axis=axis, prepend=0) == 1))
        reach = round(1.5 * thickness) + 6
        beside, over = ((3, 1), (1, reach)) if axis == 0 else ((1, 3), (reach, 1))
        crossing = cv2.morphologyEx(cv2.dilate(rest, _rectangle(*beside)), cv2.MORPH_CLOSE, _rectangle(*over)) > 0
        darkest = np.percentile(depth[line > 0], 90)
        if darkest < 0.7 * ink_depth:
            crossing |= depth > (darkest + ink_depth) / 2
        clean[(band > 0) & ~crossing] = 0
    return clean, bands[0] | bands[1]


def _lines_across(mask: np.ndarray, outside: np.ndarray, piece: int, thickest: int) -> tuple[np.ndarray, np.ndarray]:
    # A mask of level pieces, which is ink that runs along at least `piece` pixels of a row and is at most `thickest`
    # pixels thick; and a mask with 1 along the lines that they form across the page. Lines may bend a little, as on a
    # photo.
    run = cv2.morphologyEx(mask | outside, cv2.MORPH_CLOSE, _rectangle(5, 1))
    run = cv2.morphologyEx(run, cv2.MORPH_OPEN, _rectangle(piece, 1)) & ~outside & 1
    thick = cv2.dilate(cv2.morphologyEx(run, cv2.MORPH_OPEN, _rectangle(1, thickest + 1)), _rectangle(3, 3))
    pieces, hidden = run & ~thick, thick | outside  # a line that runs through hidden pixels is not seen in them
    lines_mask = np.zeros_like(pieces)
    height, width = pieces.shape
    if np.count_nonzero(pieces) < LINE_COVERS * width / 2:
        return pieces, lines_mask
    chains = cv2.dilate(pieces | hidden, _rectangle(1, 3))
    chains = cv2.morphologyEx(chains, cv2.MORPH_CLOSE, _rectangle(width // 4 | 1, 1)) & ~outside & 1
    _, labels, stats, _ = cv2.connectedComponentsWithStats(chains, connectivity=8)
    lines = []
    for number in range(1, len(stats)):
        left, top, wide, high, _ = stats[number]
        if wide < 0.3 * width:
            continue
        part = slice(top, top + high), slice(left, left + wide)
        rows, cols = np.nonzero((labels[part] == number) & (pieces[part] > 0))
        lines += _fitted_lines(rows + top, cols + left, hidden, outside, thickest)
    if len(lines) < FEW_LINES:
        lines = [line for line in lines if line.reach >= FROM_BORDER_TO_BORDER]
    for line in lines:
        half = math.ceil(line.thickness / 2)
        at = np.round(line.rows + np.arange(-half, half + 1)[:, None]).astype(int)  # (2 half + 1, W)
        is_inside = (at >= 0) & (at < height)
        lines_mask[at[is_inside], is_inside.nonzero()[1]] = 1
    return pieces, lines_mask


class Line(NamedTuple):
    """A line across the page."""

    rows: np.ndarray  # (W,), the row of the line's middle in each column
    thickness: float  # pixels
    reach: float  # length from the first to the last pixel, as a share of the page's width


def _fitted_lines(
    rows: np.ndarray, cols: np.ndarray, hidden: np.ndarray, outside: np.ndarray, thickest: int
) -> list[Line]:
    # Fit lines to the pixels of level pieces, given by their rows and columns. Characters may connect several lines, so
    # the pixels of each line are removed and the rest is fitted again.
    lines, failures = [], 0
    columns = np.arange(hidden.shape[1])
    while len(rows) and failures < 5:
        middle = np.full(len(columns), np.bincount(rows).argmax(), float)
        for degree, reach in ((1, 4), (2, 6), (2, 3)):  # a straight line first, then parabolas; reach in pixels
            near = np.abs(rows - middle[cols]) <= reach + thickest / 8
            if len(np.unique(cols[near])) < 0.1 * len(columns):
                break
            every = max(1, np.count_nonzero(near) // 2000)
            middle = np.polynomial.Polynomial.fit(cols[near][::every], rows[near][::every], degree)(columns)
        covered, thickness = np.unique(cols[near], return_counts=True)
        rows, cols = rows[~near], cols[~near]
        at = middle.round().astype(int).clip(0, len(hidden) - 1)
        page_width = max(1, np.count_nonzero(outside[at, columns] == 0))
        in_sight = np.count_nonzero(hidden[at, columns] == 0)
        length = np.ptp(covered) if len(covered) else 0
        is_covered = len(covered) >= max(LINE_COVERS * in_sight, 0.2 * page_width)
        if is_covered and length >= max(LINE_REACHES * page_width, FINE * np.median(thickness)):
            lines.append(Line(middle, float(np.median(thickness)), length / page_width))
        else:
            failures += 1
    return lines


def _thin(pieces: np.ndarray, thickest: float) -> np.ndarray:
    # A mask of the pieces that are much longer than thick, and at most `thickest` times as thick as the typical one.
    _, labels, stats, _ = cv2.connectedComponentsWithStats(pieces, connectivity=8)
    lengths = stats[:, cv2.CC_STAT_WIDTH].astype(float)
    lengths[0] = 0  # the ground
    thickness = stats[:, cv2.CC_STAT_AREA] / np.maximum(lengths, 1)
    is_thin = lengths >= 6 * thickness
    if is_thin.any():
        is_thin &= thickness <= thickest * _weighted_median(thickness[is_thin], lengths[is_thin]) + 1
    return is_thin.astype(np.uint8)[labels]


def _sides_of_boxes(cells: list[tuple[int, int, int, int]], straight: np.ndarray, thickest: int) -> np.ndarray:
    # A mask with 1 along the sides of cells, the rectangles that straight pieces enclose.
    sides = np.zeros_like(straight)
    typical = np.percentile([min(w, h) for _, _, w, h in cells], 90) if cells else 0
    sizes = np.array(cells).reshape(-1, 4)[:, 2:]
    for x, y, w, h in cells:
        is_alone = (np.abs(sizes - (w, h)) <= 3).all(1).sum() < FEW_BOXES
        if min(w, h) < 0.5 * typical and is_alone:  # a part of a cell that a character divides
            continue
        beyond = [straight[max(0, y - thickest) : y, x : x + w][::-1], straight[y + h : y + h + thickest, x : x + w],
                  straight[y : y + h, max(0, x - thickest) : x].T[::-1],
                  straight[y : y + h, x + w : x + w + thickest].T]  # fmt: skip
        above, below, before, after = (int(np.append(each.mean(1) > 0.5, False).argmin()) + 1 for each in beyond)
        inner = sides[y + 1 : y + h - 1, x + 1 : x + w - 1].copy()
        sides[max(0, y - above) : y + h + below, max(0, x - before) : x + w + after] = 1
        sides[y + 1 : y + h - 1, x + 1 : x + w - 1] = inner
    return sides


def _around_missed(boxes: np.ndarray, cells: list[tuple[int, int, int, int]], shape: tuple[int, int]) -> np.ndarray:
    # A mask with 1 near the sides of those boxes (N, 4) that are no cells.
    near_sides = np.zeros(shape, np.uint8)
    for x, y, w, h in set(map(tuple, boxes.tolist())) - set(cells):
        near = reach_of(w, h)
        cv2.rectangle(near_sides, (x, y), (x + w, y + h), 1, 2 * near)
    return near_sides


def _cells(mask: np.ndarray, straight: np.ndarray, piece: int) -> list[tuple[int, int, int, int]]:
    # The insides of the rectangles that straight pieces enclose: left, top, width, height, pixels.
    _, _, stats, _ = cv2.connectedComponentsWithStats(1 - straight, connectivity=4)
    if len(stats) <= 2:  # a single area: the pieces enclose nothing
        return []
    _, shapes = cv2.connectedComponents(mask, connectivity=8)
    is_straight = cv2.dilate(straight, _rectangle(3, 3)) > 0
    share = np.bincount(shapes[is_straight], minlength=shapes.max() + 1) / np.bincount(shapes.ravel())
    height, width = mask.shape
    cells = []
    for x, y, w, h, area in stats[1:].tolist():
        if min(w, h) < 0.8 * piece or area < 0.4 * w * h or not (2 <= x < width - w - 1 and 2 <= y < height - h - 1):
            continue
        rows, cols = slice(y, y + h), slice(x, x + w)
        sides = [(slice(y - 2, y), cols, 0), (slice(y + h, y + h + 2), cols, 0),
                 (rows, slice(x - 2, x), 1), (rows, slice(x + w, x + w + 2), 1)]  # fmt: skip
        if min(straight[a, b].any(axis).mean() for a, b, axis in sides) < 0.8:
            continue
        # The loop of a character is empty, and a smaller share of its shape is straight, because of the other strokes.
        counts = np.bincount(np.concatenate([shapes[a, b].ravel() for a, b, _ in sides]), minlength=2)
        counts[0] = 0  # the ground
        inside = mask[y + 4 : y + h - 4, x + 4 : x + w - 4].mean()
        if share[counts.argmax()] >= (0.5 if inside >= 0.03 else 0.85):
            cells.append((x, y, w, h))
    return cells


# --- from strokes to characters ---


class Groups(NamedTuple):
    """The characters of a page, each a group of strokes."""

    boxes: np.ndarray  # (N, 4): left, top, right, bottom, pixels
    strokes: list[list[int]]  # the labels of each character's strokes
    labels: np.ndarray  # (H, W), the label of the stroke at each pixel, 0 for the ground
    size: float  # longer side of a typical character, pixels


def _weighted_median(values: np.ndarray, weights: np.ndarray) -> float:
    return float(np.quantile(values, 0.5, method="inverted_cdf", weights=weights))


def _lines_of(boxes: np.ndarray, order: str) -> list[list[int]]:
    # The numbers of known boxes (N, 4), line by line: one that is not further along than the last begins a line.
    lines: list[list[int]] = []
    axis = 0 if order == "rows" else 1
    for number, box in enumerate(boxes):
        if number == 0 or box[axis] < boxes[number - 1][axis] + box[2 + axis] / 2:
            lines.append([])
        lines[-1].append(number)
    return lines


def _places(lines: list[list[int]], order: str) -> dict[int, Place]:
    # The place of each number, given the numbers in reading order, line by line.
    at = [(each, number, place) for number, line in enumerate(lines, 1) for place, each in enumerate(line, 1)]
    return {
        each: Place(count, *((line, along) if order == "rows" else (along, line)))
        for count, (each, line, along) in enumerate(at, 1)
    }


def _group_by_box(
    labels: np.ndarray, groups: list[list[int]], boxes: np.ndarray
) -> tuple[dict[int, list[int]], list[list[int]], np.ndarray]:
    # The labels of the strokes of each box (N, 4) that holds any; those of the groups outside of all boxes; and the
    # corners and the area of each label's ink: left, top, right, bottom, area, (labels, 5). A group that is as much in
    # another box, because two characters are near or touch, is divided, and a stroke is cut, which changes labels.
    owners = np.zeros(labels.shape, np.int32)  # the box of each pixel, from 1
    for number, (left, top, width, height) in enumerate(np.round(boxes).astype(int).tolist(), start=1):
        owners[max(0, top) : max(0, top + height), max(0, left) : max(0, left + width)] = number
    at = np.flatnonzero(labels)
    pairs = labels.flat[at].astype(np.int64) * (len(boxes) + 1) + owners.flat[at]
    pairs, areas = np.unique(pairs, return_counts=True)
    strokes, holders = np.divmod(pairs, len(boxes) + 1)
    count = int(strokes.max(initial=0)) + 1
    held: dict[int, list[int]] = {}
    outside: list[list[int]] = []

    def holder_of(group: list[int]) -> int | None:
        # The box that holds most of a group's ink, 0 for none; None if none holds enough.
        inside = np.isin(strokes, group)
        share = np.bincount(holders[inside], areas[inside]) / areas[inside].sum()
        return int(share.argmax()) if share.max() >= WHOLE_FROM else None

    for group in groups:
        if holder := holder_of(group):
            held.setdefault(holder - 1, []).extend(group)
            continue
        rest = group if holder == 0 else []
        for stroke in group if holder is None else []:
            holder = holder_of([stroke])
            if holder == 0:
                rest.append(stroke)
            elif holder:
                held.setdefault(holder - 1, []).append(stroke)
            else:
                pixels = np.flatnonzero(labels == stroke)
                held_by = owners.flat[pixels]
                for holder in np.unique(held_by[held_by > 0]).tolist():
                    labels.flat[pixels[held_by == holder]] = count
                    held.setdefault(holder - 1, []).append(count)
                    count += 1
        if rest:
            outside.append(rest)
    return held, outside, _extents(labels, count)


def _extents(labels: np.ndarray, count: int) -> np.ndarray:
    # The corners and the area of each label's ink: left, top, right, bottom, area, (count, 5).
    rows, columns = np.nonzero(labels)
    each = labels[rows, columns]
    order = np.argsort(each, kind="stable")
    present, first, areas = np.unique(each[order], return_index=True, return_counts=True)
    extents = np.zeros((count, 5), int)
    if len(present):
        for column, (values, reduce) in enumerate(
            ((columns, np.minimum), (rows, np.minimum), (columns + 1, np.maximum), (rows + 1, np.maximum))
        ):
            extents[present, column] = reduce.reduceat(values[order], first)
        extents[present, 4] = areas
    return extents


def _around(corners: np.ndarray) -> np.ndarray:
    # The corners around several (N, 4): left, top, right, bottom.
    return np.concatenate([corners[:, :2].min(0), corners[:, 2:4].max(0)])


def _ink_of_boxes(depth: np.ndarray, noise: float, lines: np.ndarray, boxes: np.ndarray) -> tuple[Groups, list[int]]:
    # The ink of each known box (N, 4) that is not empty, and the index of the box of each.
    dark = depth[depth > _ink_threshold(noise)]
    if not dark.size or not len(boxes):
        return Groups(np.zeros((0, 4), int), [], np.zeros((0, 0), int), 0.0), []
    labels, _, _, is_stroke = _strokes(depth, noise, dark, lines)
    side = float(np.median(boxes[:, 2:]))
    reach = round(BOX_REACH * side) * np.array([-1, -1, 2, 2])
    held, _, extents = _group_by_box(labels, [[each] for each in np.flatnonzero(is_stroke).tolist()], boxes + reach)
    kept = {}
    for holder, strokes in sorted(held.items()):
        corners = _around(extents[strokes])
        if (corners[2:] - corners[:2]).max() >= MIN_LENGTH * side and extents[strokes, 4].sum() >= MIN_AREA * side**2:
            kept[holder] = corners
    return Groups(np.array(list(kept.values()), int).reshape(-1, 4), [held[each] for each in kept], labels, side), [
        *kept
    ]


def _sorted_boxes(boxes: np.ndarray, order: str) -> tuple[np.ndarray, list[list[int]]]:
    # Boxes (N, 4) in reading order, and then their numbers line by line.
    size = float(np.median(boxes[:, 3 if order == "rows" else 2])) if len(boxes) else 0.0
    lines = _reading_order(Groups(_corners(boxes), [], np.zeros((0, 0), int), size), order)
    number = itertools.count()
    return boxes[[each for line in lines for each in line]], [[next(number) for _ in line] for line in lines]


def _corners(boxes: np.ndarray) -> np.ndarray:
    # left, top, width, height (N, 4) -> left, top, right, bottom
    return np.column_stack([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]])


def _order_beside(
    groups: Groups, in_order: list[int], holders: np.ndarray, boxes: np.ndarray, lines: list[list[int]], order: str
) -> list[int]:
    # The numbers of the groups in reading order: those in boxes like their boxes, others between lines of boxes, or in
    # a line of boxes if they are beside it. in_order: their order without boxes. lines: the boxes' numbers.
    along, across = _along_and_across(_corners(boxes), order)
    middles, half = (
        np.array([across[line].mean() for line in lines]),
        np.median(boxes[:, 3 if order == "rows" else 2]) / 2,
    )
    line_of = {number: at for at, line in enumerate(lines) for number in line}
    group_along, group_across = _along_and_across(groups.boxes, order)

    def key(number: int) -> tuple[float, float]:
        if (holder := int(holders[number])) >= 0:
            return line_of[holder], along[holder]
        away = middles - group_across[number]
        nearest = int(np.abs(away).argmin())
        if abs(away[nearest]) <= half:
            return nearest, group_along[number]
        return np.count_nonzero(away < 0) - 0.5, in_order.index(number)

    return sorted(in_order, key=key)


def _turned(boxes: np.ndarray, back: np.ndarray) -> np.ndarray:
    # The boxes (N, 4) of the turned page, level in the picture and around the same middles. back: see _cut_out.
    middles = (boxes[:, :2] + boxes[:, 2:] / 2) @ back[:, :2].T + back[:, 2]
    return np.column_stack([middles - boxes[:, 2:] / 2, boxes[:, 2:]]).round().astype(int)


def _in_boxes(groups: Groups, boxes: np.ndarray) -> tuple[Groups, np.ndarray, np.ndarray]:
    # The groups, those in a box made one; for each the index of its box, -1 if it is outside of all; and the boxes. If
    # too much ink is amid the boxes or larger than they are, the groups as they are, and no boxes.
    none = groups, np.full(len(groups.boxes), -1), boxes[:0]
    if not len(boxes):
        return none
    size = np.median(boxes[:, 2:], axis=0)
    labels = groups.labels.copy()
    gaps = [step[axis] - size[axis] for axis in (0, 1) if (step := step_of(boxes, axis)) is not None]
    reach = float(np.clip(min(gaps, default=0) / 2, 0, 0.1 * size.min()))  # to the middle between neighbours
    held, outside, extents = _group_by_box(labels, groups.strokes, boxes + reach * np.array([-1, -1, 2, 2]))
    strokes = [*held.values(), *outside]
    corners = np.array([_around(extents[each]) for each in strokes], int).reshape(-1, 4)
    holders = np.array([*held, *[-1] * len(outside)], int)
    longer = (corners[:, 2:] - corners[:, :2]).max(1)
    middles = (corners[:, :2] + corners[:, 2:]) / 2
    first, last = boxes[:, :2].min(0), (boxes[:, :2] + boxes[:, 2:]).max(0)
    is_amid = ((middles > first) & (middles < last)).all(1)
    is_out = holders < 0
    astray = is_out & is_amid & (longer > ASTRAY * size.min()) | ~is_out & (longer > LARGEST * size.max())
    like_boxes = is_out & (longer > ASTRAY * size.min())
    if astray.sum() > max(1, MANY_ASTRAY * (~is_out).sum()) or like_boxes.sum() > len(boxes):
        return none
    kept = np.flatnonzero(~is_out | (longer >= SMALLEST))
    return Groups(corners[kept], [strokes[each] for each in kept], labels, groups.size), holders[kept], boxes


def _strokes(
    depth: np.ndarray, noise: float, dark: np.ndarray, lines: np.ndarray
) -> tuple[np.ndarray, int, np.ndarray, np.ndarray]:
    # The label of the connected ink at each pixel (H, W), their count, their statistics as OpenCV gives them, and for
    # each if it is a stroke rather than the ground, a shade or a remnant of a line. dark: the depths of ink.
    full = float(np.median(dark[dark > 0.7 * np.percentile(dark, 98)]))
    mask = (depth > max(0.2 * full, 4 * noise)).astype(np.uint8)
    count, labels, stats, _ = cv2.connectedComponentsWithStats(mask, connectivity=8)
    is_stroke = np.bincount(labels[depth > max(0.3 * full, 5 * noise)], minlength=count) > 0
    is_stroke &= np.bincount(labels[lines > 0], minlength=count) < 0.8 * stats[:, cv2.CC_STAT_AREA]
    is_stroke[0] = False  # the ground
    return labels, count, stats, is_stroke


def _group_strokes(depth: np.ndarray, noise: float, outside: np.ndarray, lines: np.ndarray, has_edges: bool) -> Groups:
    # Group strokes to characters. outside, lines: masks of the pixels outside of the page and of removed lines.
    dark = depth[depth > _ink_threshold(noise)]
    none = Groups(np.zeros((0, 4), int), [], np.zeros((0, 0), int), 0.0)
    if not dark.size:
        return none
    labels, count, stats, is_stroke = _strokes(depth, noise, dark, lines)
    corners = np.column_stack([stats[:, :2], stats[:, :2] + stats[:, 2:4]]).astype(int)  # left, top, right, bottom
    areas, sizes = stats[:, cv2.CC_STAT_AREA], stats[:, 2:4].max(1)
    is_large = is_stroke & (sizes >= SMALLEST)
    if not is_large.any():
        return none
    size = _weighted_median(sizes[is_large], areas[is_large])
    is_stroke &= areas >= _min_area(is_stroke, is_large, corners, areas, size, depth.shape)
    at_border = cv2.dilate(outside, _rectangle(7, 7), borderType=cv2.BORDER_CONSTANT, borderValue=1)
    touches = np.bincount(labels[at_border > 0], minlength=count) > 0

    strokes = np.flatnonzero(is_stroke)
    groups, boxes = [[each] for each in strokes], corners[strokes]
    for is_first in (True, False, False):
        boxes, groups = _merge_near(boxes, groups, size, is_first)
        shorter, longer = np.sort(boxes[:, 2:] - boxes[:, :2], axis=1).T
        ink_areas = np.array([areas[group].sum() for group in groups])
        if not (longer >= SMALLEST).any():
            return none
        size = _weighted_median(longer[longer >= SMALLEST], ink_areas[longer >= SMALLEST])
    longest_stroke = np.array([sizes[group].max() for group in groups])
    is_character = (longer >= max(SMALLEST, 0.3 * size)) & (longest_stroke >= 0.25 * size)
    is_character &= ink_areas >= 0.1 * _weighted_median(ink_areas, ink_areas)
    # Exclude remnants of an edge or a line at the border.
    at_border = np.array([touches[group].any() for group in groups])
    is_character &= ~(at_border & ((longer > 2 * size) | (lines.any() & (longer > 8 * shorter)) | has_edges))
    # Exclude a dark table around a sheet of paper, and large objects on it.
    filled = ink_areas / np.maximum((longer * shorter), 1)
    is_character &= ~((longer * shorter > 0.4 * depth.size) & (filled > 0.75))
    if np.count_nonzero(is_character) > 4:
        is_character &= longer <= 3 * size  # larger groups are objects beside the sheet
    kept = np.flatnonzero(is_character)
    return Groups(boxes[kept], [groups[number] for number in kept], labels, size)


def _min_area(
    is_stroke: np.ndarray, is_large: np.ndarray, corners: np.ndarray, areas: np.ndarray, size: float, shape: tuple
) -> float:
    # The area from which a stroke is no dust, pixels. Small strokes far from all large ones are dust, and if there are
    # enough of these to judge by, strokes must be larger.
    near = np.zeros(shape, np.uint8)
    for left, top, right, bottom in corners[is_large] + np.array([-1, -1, 1, 1]) * round(0.6 * size):
        near[max(0, top) : bottom, max(0, left) : right] = 1
    small = np.flatnonzero(is_stroke & ~is_large)
    x, y = ((corners[small, :2] + corners[small, 2:]) // 2).T
    far = areas[small[near[y, x] == 0]]
    min_area = 0.006 * size * size
    return max(min_area, 1.2 * np.percentile(far, 95)) if len(far) >= 10 else min_area


def _merge_near(
    boxes: np.ndarray, groups: list[list[int]], size: float, is_first: bool
) -> tuple[np.ndarray, list[list[int]]]:
    # Merge groups whose gap is small for characters of this size, the nearest first.
    reach = 0.12 if is_first else 0.7
    order = np.argsort(boxes[:, 0])
    boxes, groups = boxes[order], [groups[number] for number in order]
    pairs = []
    for one in range(len(boxes) - 1):
        end = np.searchsorted(boxes[:, 0], boxes[one, 2] + reach * size, side="right")
        others = boxes[one + 1 : end]
        right = np.maximum(others[:, 0] - boxes[one, 2], 0)
        down = np.maximum(np.maximum(others[:, 1] - boxes[one, 3], boxes[one, 1] - others[:, 3]), 0)
        gaps = np.hypot(right, down) / size
        pairs += [(gaps[number], one, one + 1 + number) for number in np.flatnonzero(gaps <= reach)]
    owner = np.arange(len(boxes))  # the group into which each was merged
    for gap, one, other in sorted(pairs):
        one, other = owner[one], owner[other]
        both = np.concatenate([np.minimum(boxes[one], boxes[other])[:2], np.maximum(boxes[one], boxes[other])[2:]])
        whole, *parts = ((box[2:] - box[:2]).max() / size for box in (both, boxes[one], boxes[other]))
        is_one = whole <= 1.6 if is_first else (  # at first, size is that of strokes
            (whole <= 1.25 and gap <= 0.45)  # strokes of one character
            or (whole <= 1.5 and gap <= 0.2 and min(parts) <= 0.55)  # a small stroke beside the rest, such as a dot
            or (whole <= 1.2 and max(parts) <= 0.65)  # two halves of one character
        )  # fmt: skip
        if one != other and is_one:
            boxes[one], owner[owner == other] = both, one
            groups[one] = groups[one] + groups[other]
    kept = np.unique(owner)
    return boxes[kept], [groups[number] for number in kept]


def _along_and_across(corners: np.ndarray, order: str) -> tuple[np.ndarray, np.ndarray]:
    # The middles of boxes (N, 4), given by their corners, along their lines and across these.
    x, y = (corners[:, :2] + corners[:, 2:]).T / 2
    return (x, y) if order == "rows" else (y, -x)


def _reading_order(groups: Groups, order: str) -> list[list[int]]:
    # The numbers of the groups in reading order, line by line.
    along, across = _along_and_across(groups.boxes, order)
    # Turn the page so that its lines of characters are narrowest. If several angles do, take the smallest.
    angles = sorted(np.arange(-STEEPEST, STEEPEST + 0.01, 0.25), key=abs)
    turned = [across - along * math.tan(math.radians(angle)) for angle in angles]
    spread = [np.minimum(np.diff(np.sort(each)), 0.5 * groups.size).sum() for each in turned]
    across = turned[int(np.argmin(spread))]
    lines: list[list[int]] = []
    for number in np.argsort(across).tolist():
        if not lines or across[number] - across[lines[-1]].mean() > 0.6 * groups.size:
            lines.append([])
        lines[-1].append(number)
    return [sorted(line, key=lambda each: along[each]) for line in lines]


def _usual_lengths(groups: Groups, lines: list[list[int]], order: str) -> np.ndarray:
    # The length along its line that is usual for each group, pixels (N,); infinite if there are too few to compare.
    along, across = (groups.boxes[:, 2:] - groups.boxes[:, :2]).T[:: 1 if order == "rows" else -1]
    if len(along) < MIN_TO_COMPARE:
        return np.full(len(along), np.inf)
    heights = np.empty(len(along))  # of the lines: a heading is higher; one that is lower may be so by chance
    for line in lines:
        heights[line] = max(np.median(across[line]), np.median(across))
    # A third are shorter. The median would be too long on a page with many pairs.
    return heights * max(NARROW, float(np.quantile(along / heights, 1 / 3, method="inverted_cdf")))


def _cut_out(
    depth: np.ndarray, noise: float, groups: Groups, number: int, back: np.ndarray, order: str, usual: float
) -> Character:
    # The box in the picture and the ink of a group, and the parts of a long one. back: affine map from the turned page
    # to the picture. usual: length along the line, pixels.
    left, top, right, bottom = np.maximum(groups.boxes[number] + (-2, -2, 2, 2), 0)
    part = slice(top, bottom), slice(left, right)
    labels = groups.labels[part]
    strokes = np.isin(labels, groups.strokes[number]).astype(np.uint8)
    strokes = cv2.dilate(strokes, _rectangle(5, 5)) & (strokes | (labels == 0))  # including the strokes' soft edges
    values = depth[part].astype(np.float32) * strokes
    full = np.median(values[values > 0.5 * values.max()])
    nothing = min(3 * noise, 0.3 * full)
    values = np.clip((values - nothing) / (full - nothing), 0, 1)
    whole, is_row = _character(values, (left, top), back), order == "rows"
    length = whole.ink.shape[1 if is_row else 0] / usual
    if length < CUT_FROM:
        return whole
    parts = [each if is_row else each.T for each in _cut(values if is_row else values.T, max(2, round(length)))]
    return whole._replace(parts=tuple(_character(each, (left, top), back) for each in parts), is_long=length >= LONG)


def _cut(values: np.ndarray, count: int) -> list[np.ndarray]:
    # The ink (h, w) of each of `count` characters side by side, each (h, w). It is cut from top to bottom where little
    # ink is crossed, near the places that make the parts equally long. Parts without ink are left out.
    columns = np.flatnonzero((values > ink.SEEN_FROM).any(0))
    first, length = columns[0], (np.ptp(columns) + 1) / count
    parts, rest = [], values
    for number in range(1, count):
        start, stop = (round(first + (number + side) * length) for side in (-0.5, 0.5))
        cost = values[:, start:stop] + OFF_MIDDLE * np.linspace(-1, 1, stop - start) ** 2
        is_before = np.arange(values.shape[1]) < start + _cheapest_path(cost)[:, None]
        parts.append(rest * is_before)
        rest = rest * ~is_before
    return [part for part in (*parts, rest) if part.max() > ink.SEEN_FROM]


def _cheapest_path(cost: np.ndarray) -> np.ndarray:
    # The column in each row (h,) of the path from top to bottom of least cost (h, w). From row to row it moves by at
    # most one column, so that it leads between round characters to the place where they touch.
    total = np.pad(cost, ((0, 0), (1, 1)), constant_values=np.inf)
    for above, row in itertools.pairwise(total):
        row[1:-1] += np.minimum(above[1:-1], np.minimum(above[:-2], above[2:]))
    path = [int(total[-1].argmin())]
    for row in total[-2::-1]:
        path.append(path[-1] - 1 + int(row[path[-1] - 1 : path[-1] + 2].argmin()))
    return np.array(path[::-1]) - 1


def _character(values: np.ndarray, corner: tuple[int, int], back: np.ndarray) -> Character:
    # The ink in values (h, w), whose upper left pixel is at `corner` of the turned page. back: see _cut_out.
    seen = np.argwhere(values > ink.SEEN_FROM)
    (first_row, first_column), (last_row, last_column) = seen.min(0), seen.max(0)
    points = (seen[:, ::-1] + corner) @ back[:, :2].T + back[:, 2]  # in the picture
    (x, y), (right, bottom) = np.floor(points.min(0) + 1e-6), np.ceil(points.max(0) - 1e-6) + 1
    box = (max(0, int(x)), max(0, int(y)), int(right - x), int(bottom - y))
    return Character(box, values[first_row : last_row + 1, first_column : last_column + 1])
