"""sheet.py: where things are on a sheet, its code, sheets found on photos, and what is in their boxes."""

import functools
import random

import cv2
import numpy as np
import pytest
import sheets
from sklearn.datasets import load_digits

from neural_lib.data import sheet
from neural_lib.data.page import Character
from neural_lib.data.sheet import SheetPage, find_sheets, is_crossed_out, pages_of, read_boxes

PAGE, LAST = pages_of(["a", "b", "/"], 4)[0], pages_of(list("abcdefghijklm"), 10)[1]
BOX = np.array([300.0, 200.0, 124.0, 124.0])
TABLE = (90, 70, 60)  # its colour


# --- the layout ---


def test_nothing_on_a_sheet_overlaps_or_leaves_the_paper():
    (page,) = pages_of([], sheet.MAX_PER_PAGE)
    parts = [(*at, sheet.MARKER, sheet.MARKER) for at in sheet.CORNERS]
    parts += [(*sheet.CODE_AT, sheet.CODE, sheet.CODE), *page.boxes]
    left, top, width, height = np.array(parts).T
    right, bottom = left + width, top + height
    assert min(left.min(), top.min()) >= 5 and right.max() <= sheet.PAPER[0] - 5 and bottom.max() <= sheet.PAPER[1] - 5
    across = np.maximum(left[:, None], left) - np.minimum(right[:, None], right)  # gaps; negative: overlaps
    down = np.maximum(top[:, None], top) - np.minimum(bottom[:, None], bottom)
    gaps = np.maximum(across, down)[~np.eye(len(parts), dtype=bool)]
    assert gaps.min() >= 1.5
    assert len(page.boxes) == sheet.MAX_PER_PAGE and (np.diff(page.boxes[:, 1]) >= 0).all()  # in reading order


def test_pages_tell_their_markers_apart():
    pages = pages_of(list(map(str, range(500))), 10)
    seen = [each for page in pages[: sheet.NUMBERED] for each in page.markers]
    assert len({*seen}) == len(seen) and min(seen) >= 0 and max(seen) < len(sheet.DICTIONARY.bytesList)


# --- pages and their codes ---


def test_the_boxes_of_all_pages_are_those_of_the_sheet():
    chance = random.Random(0)
    for _ in range(60):
        count, copies = chance.choice([0, 1, 2, 7, 46, 500]), chance.choice([1, 2, 9, 10, 110, 111])
        longest = chance.choice([1, 3, 20])
        labels = [f"{number}{chance.choice('aか漢😀') * chance.randrange(longest)}" for number in range(count)]
        pages, total = pages_of(labels, copies), copies * max(1, count)
        assert [number for page in pages for number in page.numbers] == [*range(1, total + 1)]
        assert [(page.number, page.pages) for page in pages] == [(n, len(pages)) for n in range(1, len(pages) + 1)]
        for page in pages:
            expected = [labels[(number - 1) // copies] if labels else "" for number in page.numbers]
            assert [page.label(number) for number in page.numbers] == expected
            assert len(page.code.encode()) <= sheet.MAX_CODE or page.count == 1
            assert SheetPage.of_code(page.code) == page


@pytest.mark.parametrize("code", [
    "", "\n", "https://example.org", "sheet1", "sheet1 1 1 1 4", "sheet2 1 1 1 4 2\na\nb", "sheet1 1 1 1 4 2 5\na\nb",
    "sheet1 1 1 1 4 x\na\nb", "sheet1 1 1 1 4 -2\na\nb", "sheet1  1 1 1 4 2\na\nb",
    "sheet1 1 1 1 0 2\na\nb", "sheet1 1 1 1 111 111\na", "sheet1 0 1 1 4 2\na\nb", "sheet1 1 1 0 4 2\na\nb",
    "sheet1 1 1 1 4 0\na\nb", "sheet1 2 1 1 4 2\na\nb", "sheet1 1 1 1 4 2\na", "sheet1 1 1 1 4 2\na\nb\nc",
    "sheet1 1 1 1 4 2\na\n", "sheet1 1 1 1 4 2\na\n\x1b", "sheet1 1 1 1 4 2\n", "sheet1 1 1 1 5 2\na\nb",
])  # fmt: skip
def test_a_code_of_another_program_or_with_a_fault_is_no_page(code):
    assert SheetPage.of_code("sheet1 1 1 1 4 2\na\nb") and SheetPage.of_code(code) is None


def test_whatever_a_damaged_code_says_each_box_has_its_label():
    chance = random.Random(1)
    for _ in range(1000):
        code = list(LAST.code)
        for _ in range(chance.randrange(1, 4)):
            code[chance.randrange(len(code))] = chance.choice("0123456789 \nab")
        if page := SheetPage.of_code("".join(code)):
            assert all(page.label(number) or not page.labels for number in page.numbers)


# --- on pictures ---


def glyph(text: str) -> np.ndarray:
    """A character, light on black, uint8 (28, 28)."""
    image = np.zeros((28, 28), np.uint8)
    cv2.putText(image, text, (4, 22), cv2.FONT_HERSHEY_SIMPLEX, 0.8, 255, 2, cv2.LINE_AA)
    return image


@functools.cache
def written(page: SheetPage, seed: int = 0) -> np.ndarray:
    """A sheet filled in, except for its second box."""
    images = {number: glyph("abe"[number % 3]) for number in page.numbers if number != page.first + 1}
    return sheets.fill_in(sheets.printed(page), page, images, np.random.default_rng(seed), "thick")


def covered(paper: np.ndarray, at: tuple[float, float], side: float) -> np.ndarray:
    """A paper with a square of it hidden. at, side: mm."""
    left, top, side = (round(each * sheets.DPI / 25.4) for each in (*at, side))
    paper = paper.copy()
    paper[top : top + side, left : left + side] = TABLE
    return paper


def beside(*papers: np.ndarray) -> np.ndarray:
    """Papers side by side on a table."""
    edge = (60, 60, 60, 60, cv2.BORDER_CONSTANT)
    return np.hstack([cv2.copyMakeBorder(paper, *edge, value=TABLE) for paper in papers])


def assert_found(found: sheet.Sheet, page: SheetPage) -> None:
    """Expect this page, and something dark in the middle of each box but the second."""
    assert found.page == page and found.reason == ""
    for number, (left, top, side, _) in zip(page.numbers, np.round(found.boxes).astype(int), strict=True):
        middle = found.picture[top + side // 5 : top + side * 4 // 5, left + side // 5 : left + side * 4 // 5]
        assert bool(np.ptp(middle) > 110) is (number != page.first + 1), number


@pytest.mark.few(1)
@pytest.mark.parametrize("seed, tilt", [(3, 30), (0, 0)])
def test_a_sheet_is_read_whatever_its_turn_and_tilt(seed, tilt):
    (found,) = find_sheets(sheets.photograph(written(PAGE), np.random.default_rng(seed), 1600, tilt))
    boxes = read_boxes(found)
    assert found.page == PAGE
    assert [(box.number, box.label) for box in boxes] == [(number, PAGE.label(number)) for number in PAGE.numbers]
    assert [box.number for box in boxes if not box.character] == [2]
    assert not any(box.is_crossed_out for box in boxes)
    for box, (left, top, side, _) in zip(boxes, found.boxes, strict=True):
        if box.character:  # no box's line is in it, though there are few to know them by
            x, y, width, height = box.character.box
            assert max(width, height) < 0.8 * side
            assert max(abs(x + width / 2 - left - side / 2), abs(y + height / 2 - top - side / 2)) < 0.3 * side


def test_strokes_that_cross_the_lines_of_a_box_are_kept():
    paper, per_mm = sheets.printed(PAGE), sheets.DPI / 25.4
    left, top, side, _ = PAGE.boxes[0] * per_mm
    ends = [
        (round(left + x * side), round(top + y * side)) for x, y in ((-0.05, 0.5), (1.05, 0.5), (0.5, 0.3), (0.5, 1))
    ]
    for one, other in (ends[:2], ends[2:]):
        paper = cv2.line(paper, one, other, (60, 60, 90), round(0.7 * per_mm), cv2.LINE_AA)
    (found,) = find_sheets(paper)
    first, *others = read_boxes(found)
    assert not any(box.character for box in others)
    _, _, width, height = first.character.box / found.boxes[0][2]
    assert width > 1.05 and height == pytest.approx(0.72, abs=0.05)
    assert (first.character.ink.max(0)[2:-2] > 0.5).all()  # the level line has no gap


@pytest.mark.few(1)
@pytest.mark.parametrize("turns", [2, 0, 1, 3])
def test_a_scan_may_lie_on_any_side(turns):
    (found,) = find_sheets(np.rot90(written(LAST), turns).copy())
    assert_found(found, LAST)


@pytest.mark.few(1)
@pytest.mark.parametrize("corner", range(4))
def test_three_markers_suffice(corner):
    paper = covered(written(PAGE), sheet.CORNERS[corner], sheet.MARKER)
    (found,) = find_sheets(sheets.photograph(paper, np.random.default_rng(corner), 1600, 10))
    assert_found(found, PAGE)


@pytest.mark.slow
@pytest.mark.parametrize("pages", [(PAGE, LAST), (LAST, PAGE)])
def test_two_pages_on_a_photo_are_read_apart_from_the_left(pages):
    both = sheets.photograph(beside(*map(written, pages)), np.random.default_rng(0), 2600, turn=5)
    for found, page in zip(find_sheets(both), pages, strict=True):
        assert_found(found, page)


@pytest.mark.slow
@pytest.mark.parametrize("missing", [(), (0, 2)])
def test_copies_of_a_page_on_a_photo_are_read_apart_even_if_each_lacks_a_marker(missing):
    papers = [written(PAGE, seed=1), written(PAGE, seed=2)]
    for number, corner in enumerate(missing):
        papers[number] = covered(papers[number], sheet.CORNERS[corner], sheet.MARKER)
    found = find_sheets(sheets.photograph(beside(*papers), np.random.default_rng(1), 2600))
    assert len(found) == 2
    for each in found:
        assert_found(each, PAGE)
    own = [find_sheets(paper)[0].picture for paper in papers]
    part = slice(300, 700), slice(100, 1500)
    likeness = [[-np.abs(each.picture[part] - 1.0 * one[part]).mean() for one in own] for each in found]
    assert {*np.argmax(likeness, axis=1).tolist()} == {0, 1}  # each is one of the papers


def test_markers_that_belong_to_no_sheet_are_not_put_together():
    paper, per_mm = written(PAGE), sheets.DPI / 25.4
    scraps = np.full((900, 1600, 3), 255, np.uint8)
    for corner, x, y in ((0, 100, 100), (0, 1300, 200), (2, 500, 700)):
        left, top = (round(at * per_mm) - 20 for at in sheet.CORNERS[corner])
        side = round(sheet.MARKER * per_mm) + 40
        scraps[y : y + side, x : x + side] = paper[top : top + side, left : left + side]
    found = find_sheets(scraps)
    assert len(found) > 1 and all("markers in a sheet's corners" in each.reason for each in found)


@pytest.mark.slow
def test_boxes_are_where_they_are_printed_on_a_sheet_that_is_not_flat():
    (page,) = pages_of("abcdefghij", 10)
    paper, per_mm = sheets.printed(page), sheets.DPI / 25.4
    x, y = np.meshgrid(np.arange(paper.shape[1], dtype=np.float32), np.arange(len(paper), dtype=np.float32))
    bend = 2 * per_mm * np.sin(np.pi * x / paper.shape[1])  # 2 mm upwards in the middle
    (found,) = find_sheets(cv2.remap(paper, x, y + bend, cv2.INTER_LINEAR, borderValue=(255, 255, 255)))
    places = np.append(page.boxes[:, 0] + page.boxes[:, 2] / 2, sheet.CORNERS[0][0] + sheet.MARKER / 2)
    *up, of_markers = 2 * np.sin(np.pi * places / sheet.PAPER[0])
    moved = found.boxes / sheet.RESOLUTION - page.boxes
    assert np.abs(moved[:, 1] + up - of_markers).max() < 0.2 and np.abs(moved[:, [0, 2, 3]]).max() < 0.2


def test_what_cannot_be_used_says_why():
    paper = written(PAGE)
    half = find_sheets(paper[: len(paper) // 2])
    assert [each.reason for each in half] == [
        "only 2 of the 4 markers in a sheet's corners can be seen, and 3 are needed"
    ]
    (coded,) = find_sheets(covered(paper, sheet.CODE_AT, sheet.CODE * 0.7))
    assert coded.page is None and "square code" in coded.reason
    cut = covered(written(LAST), sheet.CORNERS[2], sheet.MARKER)[:, : -round(45 * sheets.DPI / 25.4)]
    assert [each.page for each in find_sheets(cut)] == [None]
    x, y = np.meshgrid(np.arange(paper.shape[1], dtype=np.float32), np.arange(len(paper), dtype=np.float32))
    bent = cv2.remap(paper, x + 40 * np.sin(2 * np.pi * y / len(paper)), y, cv2.INTER_LINEAR)
    bent = cv2.remap(bent, x, y + 60 * np.sin(2 * np.pi * x / len(x[0])), cv2.INTER_LINEAR)
    assert [each.reason for each in find_sheets(bent)] == ["a sheet is bent or creased; lay it flat"]


@pytest.mark.parametrize("shape", [(1, 1), (2, 3000), (300, 200), (1000, 700)])
def test_on_other_pictures_there_is_no_sheet(shape):
    noise = np.random.default_rng(0).integers(0, 256, (*shape, 3)).astype(np.uint8)
    assert find_sheets(noise) == [] and find_sheets(np.full_like(noise, 255)) == []


# --- two photos of one sheet ---


def test_the_lines_of_a_box_are_no_part_of_its_sketch():
    box = np.full((sheet.BOX, sheet.BOX), 255, np.uint8)
    cv2.line(box, (40, 30), (80, 90), 0, 8)
    lined = cv2.rectangle(box.copy(), (0, 0), (sheet.BOX - 1, sheet.BOX - 1), 0, 6)
    assert sheet.sketch_of(box) @ sheet.sketch_of(lined) > 0.99


def test_sheets_are_the_same_if_what_is_left_of_them_is_alike():
    one = dict(enumerate(np.eye(4, dtype=np.float32)))
    assert sheet.is_same_sheet(one, one) and not sheet.is_same_sheet(one, one | {3: one[2]})
    assert not sheet.is_same_sheet(one, {0: one[0], 1: one[1]})  # boxes that only one of them has
    assert sheet.is_same_sheet(one, {0: one[0], 1: one[1]}, deleted={2, 3})
    assert not sheet.is_same_sheet(one, {0: one[0]}, deleted={1, 2, 3})  # one box alone doesn't tell
    few = {0: one[0], 1: one[1]}
    assert not sheet.is_same_sheet(few, few)


# --- crossed out ---


def character(ink: np.ndarray) -> Character:
    """The ink of a box, float32, which covers BOX and as much around it as it is larger."""
    edge = (len(ink) - round(BOX[2])) // 2
    rows, columns = (np.flatnonzero(ink.max(axis) > 0.2) for axis in (1, 0))
    cut = ink[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    return Character((int(BOX[0]) - edge + columns[0], int(BOX[1]) - edge + rows[0], *cut.shape[::-1]), cut)


def strokes(*lines: tuple, width: float = 0.04) -> np.ndarray:
    """Lines in a box, each through points that are shares of its side; a fifth of a side around it is seen, too."""
    side, edge = round(BOX[2]), 25
    ink = np.zeros((side + 2 * edge,) * 2, np.float32)
    for points in lines:
        pixels = [np.round(np.array(points) * side + edge).astype(np.int32)]
        cv2.polylines(ink, pixels, False, 1.0, round(width * side), cv2.LINE_AA)
    return ink


def test_a_line_from_corner_to_corner_crosses_a_box_out():
    uniform, missed = np.random.default_rng(0).uniform, 0
    for number in range(200):
        ends = np.array([[0, 0], [1, 1]]) + uniform(-0.07, 0.07, (2, 2))
        bow = np.array([1, -1]) * uniform(-0.03, 0.03)
        line = [ends[0], ends.mean(0) + bow, ends[1]]
        line = np.array(line if number % 2 else [(1 - x, y) for x, y in line])
        letter = strokes([(0.3, 0.7), (0.5, 0.3), (0.7, 0.7)], width=0.06) if number % 3 else 0
        missed += not is_crossed_out(character(np.maximum(strokes(line, width=uniform(0.025, 0.05)), letter)), BOX)
    assert missed <= 4
    assert is_crossed_out(character(strokes([(-0.1, -0.1), (1.1, 1.1)], [(1.1, -0.1), (-0.1, 1.1)])), BOX)


def test_a_scribble_crosses_a_box_out():
    lines = [[(0.05, at), (0.95, at + 0.05)] for at in np.arange(0.1, 0.95, 0.07)]
    assert is_crossed_out(character(strokes(*lines)), BOX)


@pytest.mark.parametrize("lines", [
    [[(0, 1), (1, 0)]],  # /
    [[(0, 0), (1, 1)]],
    [[(0, 0), (1, 1)], [(0, 1), (1, 0)]],  # X
    [[(0.1, 1), (0.6, 0.65), (0.9, 0)]],  # ノ
    [[(0.2, 1), (0.75, 0.5), (0.9, 0)], [(0.2, 0.35), (0.85, 0.8)]],  # メ
    [[(0, 0), (0.5, 1), (1, 0)]],  # V
    [[(0, 0), (1, 0), (0, 1), (1, 1)]],  # Z
    [[(0, 1), (0, 0), (1, 1), (1, 0)]],  # N
    [[(0, 0), (1, 1)], [(1, 0), (0, 1)], [(0.5, 0), (0.5, 1)], [(0, 0.5), (1, 0.5)]],  # *
    [[(0, 0), (1, 0), (1, 1), (0, 1), (0, 0)]],  # 口
])  # fmt: skip
def test_a_stroke_of_a_character_does_not(lines):
    uniform = np.random.default_rng(0).uniform
    for _ in range(30):
        size, shift = uniform(0.5, 0.75), uniform(-0.06, 0.06, 2)
        at = [(np.array(line) - 0.5) * size + 0.5 + shift for line in lines]
        assert not is_crossed_out(character(strokes(*at, width=uniform(0.025, 0.08))), BOX)


def test_no_digit_is_taken_for_crossed_out():
    side = round(BOX[2])
    for image in load_digits().images[:600]:
        ink = np.zeros((side, side), np.float32)
        size = round(0.85 * side)
        at = (side - size) // 2
        ink[at : at + size, at : at + size] = cv2.resize(image / 16, (size, size), interpolation=cv2.INTER_CUBIC)
        assert not is_crossed_out(character(ink.clip(0, 1)), BOX)
