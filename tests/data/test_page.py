"""All characters on pages of many kinds are found, nothing else is, and their order and strokes are right."""

import io
import re
import warnings

import cv2
import numpy as np
import pages
import pytest
from PIL import Image

from neural_lib.data import ink, page
from neural_lib.data.page import find_characters

PAPER, INK, PRINTED = 235, 40, 150  # grey levels
HEIGHT, WIDTH = 900, 1200
FONT = cv2.FontFace("uni")
GRAIN = np.random.default_rng(0).normal(PAPER, 2, (100, 100)).round().astype(np.uint8)


def sheet(height: int = HEIGHT, width: int = WIDTH) -> np.ndarray:
    """An empty page, grey, with its grain."""
    return np.tile(GRAIN, (height // 100, width // 100))[:height, :width].copy()


def write(grey: np.ndarray, text: str, x: int, y: int, size: int = 150, shade: int = INK) -> tuple[int, int, int, int]:
    """Write text on a page, with the left end of its baseline at (x, y); returns the box of its ink."""
    left, top = max(0, x - 20), max(0, y - 2 * size)
    part = grey[top : y + size, left : x + 2 * size * len(text)]
    ground = np.zeros((*part.shape, 3), np.uint8)
    cv2.putText(ground, text, (x - left, y - top), (255, 255, 255), FONT, size)
    share = ground[..., 0] / 255
    part[:] = (part + (shade - part.astype(float)) * share).round()
    rows, columns = (np.flatnonzero(share.max(axis) > 0.5) for axis in (1, 0))
    return left + int(columns[0]), top + int(rows[0]), int(np.ptp(columns)) + 1, int(np.ptp(rows)) + 1


def overlap(one: tuple, other: tuple) -> float:
    """The intersection of two boxes over their union, 0 to 1."""
    left, top = np.maximum(one[:2], other[:2])
    right, bottom = np.minimum(np.add(one[:2], one[2:]), np.add(other[:2], other[2:]))
    common = max(0, right - left) * max(0, bottom - top)
    return common / (one[2] * one[3] + other[2] * other[3] - common)


def boxes_on(grey: np.ndarray, **how: str) -> list[tuple]:
    return [each.box for each in find_characters(grey, **how).characters]


def assert_found(grey: np.ndarray, expected: list[tuple], min_overlap: float = 0.8, **how: str) -> None:
    boxes = boxes_on(grey, **how)
    assert len(boxes) == len(expected), boxes
    assert min(map(overlap, boxes, expected)) > min_overlap, (boxes, expected)


# --- kinds of paper ---


def squared(grey: np.ndarray, step: int = 60) -> None:
    grey[::step] = grey[1::step] = PRINTED
    grey[:, ::step] = grey[:, 1::step] = PRINTED


def ruled(grey: np.ndarray) -> None:
    grey[20::80] = grey[21::80] = PRINTED


def boxed(grey: np.ndarray) -> None:
    cv2.rectangle(grey, (650, 450), (910, 710), INK, 4)


def with_edges(grey: np.ndarray) -> None:
    grey[:40] = grey[-40:] = 10
    grey[:, :40] = grey[:, -40:] = 10


def table_above(grey: np.ndarray) -> None:
    x = np.arange(grey.shape[1])
    grey[np.arange(grey.shape[0])[:, None] < 60 + 0.02 * x] = 60


def specked(grey: np.ndarray) -> None:
    for x, y in np.random.default_rng(1).integers(0, (WIDTH, HEIGHT), (300, 2)).tolist():
        cv2.circle(grey, (x, y), 1, 60, cv2.FILLED)


def shaded(grey: np.ndarray) -> None:
    light = 1 - 0.35 / (1 + np.exp(-(np.arange(grey.shape[1]) - 700) / 60))
    grey[:] = grey * light[None]


PAPERS = {"plain": lambda grey: None, **{each.__name__: each for each in (
    squared, ruled, boxed, with_edges, table_above, specked, shaded)}}  # fmt: skip


@pytest.mark.few(4)
@pytest.mark.parametrize("paper", PAPERS)
def test_a_character_is_found_on_any_paper(paper):
    grey = sheet()
    PAPERS[paper](grey)
    box = write(grey, "お", 700, 650)
    assert_found(grey, [box])


@pytest.mark.few(1)
@pytest.mark.parametrize("paper", [name for name in PAPERS if name != "plain"])
def test_empty_paper_has_no_ink(paper):
    grey = sheet()
    PAPERS[paper](grey)
    assert find_characters(grey).characters == []


@pytest.mark.few(1)
@pytest.mark.parametrize("paper", ["squared", "ruled", "boxed"])
def test_strokes_that_cross_lines_are_not_cut(paper):
    plain, lined = sheet(), sheet()
    PAPERS[paper](lined)
    for grey in (plain, lined):
        write(grey, "ま", 700, 650)
    (whole,), (crossed,) = (find_characters(grey).characters for grey in (plain, lined))
    inks = [cv2.resize(each.ink, (60, 60), interpolation=cv2.INTER_AREA) for each in (whole, crossed)]
    assert np.abs(inks[0] - inks[1]).mean() < 0.06
    assert inks[1].sum() > 0.95 * inks[0].sum()


@pytest.mark.few(1)
@pytest.mark.parametrize("texts", [["お"] * 2, list("きすつなは"), ["つ"] * 6], ids=len)
def test_characters_side_by_side_are_found_one_by_one(texts):
    grey, boxes = sheet(), []
    for number, text in enumerate(texts):
        boxes.append(write(grey, text, 120 + number % 3 * 300, 300 + number // 3 * 400, 180))
    assert_found(grey, boxes)


@pytest.mark.few(1)
@pytest.mark.parametrize("text", "いはおiうこ")
def test_a_character_of_separate_strokes_is_one(text):
    grey = sheet()
    boxes = [write(grey, each, x, 600) for x, each in ((200, "ま"), (500, text), (800, "れ"))]
    assert_found(grey, boxes)
    alone = sheet(600, 700)
    assert_found(alone, [write(alone, text, 250, 400)])


def test_digits_that_are_narrow_stay_apart():
    grey = sheet()
    assert_found(grey, [write(grey, each, 200 + 130 * number, 600) for number, each in enumerate("11718")])


@pytest.mark.few(1)
@pytest.mark.parametrize("order, expected", [("columns", "246135"), ("rows", "123456")])
@pytest.mark.parametrize("turned", [-2.5, 0, 2.5])
def test_the_order_is_that_of_reading(order, expected, turned):
    grey, boxes = sheet(), {}
    for number, text in enumerate("123456"):  # three lines of two
        boxes[text] = write(grey, text, 300 + number % 2 * 500, 250 + number // 2 * 250)
    turn = cv2.getRotationMatrix2D((WIDTH / 2, HEIGHT / 2), turned, 1)
    grey = cv2.warpAffine(grey, turn, (WIDTH, HEIGHT), borderMode=cv2.BORDER_REPLICATE)
    middles = {text: turn @ (x + w / 2, y + h / 2, 1) for text, (x, y, w, h) in boxes.items()}
    centres = [np.add(box[:2], np.divide(box[2:], 2)) for box in boxes_on(grey, order=order)]
    nearest = [min(middles, key=lambda text: np.hypot(*(middles[text] - middle))) for middle in centres]
    assert "".join(nearest) == expected


def test_light_ink_on_dark_ground_is_found():
    grey = 255 - sheet()
    box = write(grey, "き", 700, 650, shade=220)
    assert_found(grey, [box])
    assert_found(grey, [box], invert="no")


@pytest.mark.few(1)
@pytest.mark.parametrize("angle", [-3, 2])
@pytest.mark.parametrize("paper", ["squared", "ruled", "boxed"])
def test_a_page_may_be_turned(paper, angle):
    grey = sheet()
    PAPERS[paper](grey)
    x, y, w, h = write(grey, "お", 700, 650)
    turn = cv2.getRotationMatrix2D((WIDTH / 2, HEIGHT / 2), angle, 1)
    grey = cv2.warpAffine(grey, turn, (WIDTH, HEIGHT), borderMode=cv2.BORDER_REPLICATE)
    corners = np.array([(x, y, 1), (x + w, y, 1), (x, y + h, 1), (x + w, y + h, 1)]) @ turn.T
    (left, top), (right, bottom) = corners.min(0), corners.max(0)
    assert_found(grey, [(left, top, right - left, bottom - top)], min_overlap=0.7)


def test_a_dithered_scan_is_read():
    grey = sheet()
    box = write(grey, "お", 700, 650)
    bilevel = np.asarray(Image.fromarray(grey).convert("1")).astype(np.uint8) * 255
    assert set(np.unique(bilevel)) == {0, 255}
    assert_found(bilevel, [box])


def test_jpeg_of_low_quality_is_read():
    grey = sheet()
    squared(grey)
    boxes = [write(grey, text, x, 700, 90) for x, text in ((400, "す"), (700, "つ"))]
    file = io.BytesIO()
    Image.fromarray(grey).save(file, "JPEG", quality=30)
    assert_found(np.asarray(Image.open(file)), boxes)


# --- characters that touch ---


def write_row(grey: np.ndarray, text: str, y: int, size: int = 150) -> list[tuple[int, int, int, int]]:
    """Write characters side by side; one after a "+" touches the one before. Returns the boxes of their ink."""
    boxes, x = [], 50
    for each in re.findall(r"\+?.", text):
        offset = write(sheet(), each[-1], 600, 600, size)[0] - 600  # from the left end of the baseline to the ink
        boxes.append(write(grey, each[-1], x - offset + (-4 if each[0] == "+" else 80), y, size))
        x = boxes[-1][0] + boxes[-1][2]
    return boxes


def mirrored(box: tuple[int, int, int, int]) -> tuple[int, int, int, int]:
    return box[1], box[0], box[3], box[2]


@pytest.mark.few(1)
@pytest.mark.parametrize("order", ["rows", "columns"])
@pytest.mark.parametrize("text", ["のの+のの", "の+のののの", "のの+の+のの"])
def test_characters_that_touch_are_long_and_cut_where_they_do(text, order):
    grey = sheet()
    boxes = write_row(grey, text, 500)
    if order == "columns":
        grey, boxes = grey.T.copy(), list(map(mirrored, boxes))
    characters = find_characters(grey, order=order).characters
    assert len(characters) == len(boxes) - text.count("+")
    assert [each.is_long for each in characters if each.parts] == [True]
    parts = [part for each in characters for part in each.parts or [each]]
    assert len(parts) == len(boxes) and min(map(overlap, [each.box for each in parts], boxes)) > 0.8


def test_slanted_characters_are_cut_between_them():
    grey, boxes = sheet(), []
    for x in (150, 350, 466, 666):
        outline = cv2.ellipse2Poly((x, 450), (90, 45), -65, 0, 360, 5)
        cv2.polylines(grey, [outline], True, INK, 12)
        boxes.append(cv2.boundingRect(outline))
    (parts,) = [each.parts for each in find_characters(grey).characters if each.parts]
    assert min(map(overlap, [each.box for each in parts], boxes[1:3])) > 0.8


@pytest.mark.parametrize("rows", [["10111"], ["の+の", "の"]])
def test_a_character_is_not_long_beside_narrow_or_few_ones(rows):
    grey = sheet()
    for number, text in enumerate(rows):
        write_row(grey, text, 300 + 300 * number)
    assert not any(each.parts or each.is_long for each in find_characters(grey).characters)


def test_characters_of_a_heading_are_not_long():
    grey = sheet()
    write_row(grey, "のの", 250, 220)
    for row in range(3):
        write_row(grey, "ののの+ののの", 450 + 150 * row, 90)
    are_long = [each.is_long for each in find_characters(grey).characters]
    assert are_long == [False] * 2 + [False, False, True, False, False] * 3


def test_pairs_are_long_even_if_they_are_many():
    grey = sheet()
    write_row(grey, "の+のの+のの", 500)
    assert [each.is_long for each in find_characters(grey).characters] == [True, True, False]


@pytest.mark.few(1)
@pytest.mark.parametrize("wide, is_cut, is_long", [(60, True, False), (70, True, True), (40, False, False)])
def test_a_character_is_cut_before_it_is_called_long(wide, is_cut, is_long):
    grey = sheet()
    for x, half in ((100, 40), (300, wide), (500, 40), (700, 40)):
        diamond = np.array([(x - half, 450), (x, 410), (x + half, 450), (x, 490)])
        cv2.polylines(grey, [diamond], True, INK, 4)
    character = find_characters(grey).characters[1]
    assert (bool(character.parts), character.is_long) == (is_cut, is_long)


def test_a_part_without_ink_is_left_out():
    values = np.zeros((20, 60), np.float32)
    values[5:15, :10] = values[5:15, -10:] = 1
    assert [part.sum() for part in page._cut(values, 3)] == [100, 100]


# --- the place of a character on its page ---

TEXTS = "きすつなはまれをお"


def form(
    blank: set[int] = frozenset(), *, rows: int = 3, columns: int = 5, side: int = 110, gap: int = 18, shade: int = INK
) -> np.ndarray:
    """A page with a grid of boxes, from (200, 300), with a character each, but for the blank ones, counted from 1."""
    grey = sheet()
    for number in range(1, rows * columns + 1):
        row, column = divmod(number - 1, columns)
        x, y = 200 + column * (side + gap), 300 + row * (side + gap)
        cv2.rectangle(grey, (x, y), (x + side, y + side), shade, 3)
        if number not in blank:
            write(grey, TEXTS[number % len(TEXTS)], x + side // 5, y + 3 * side // 4, 3 * side // 5)
    return grey


def name_above(grey: np.ndarray) -> None:
    write(grey, "Name:", 200, 230, 40, PRINTED)
    cv2.line(grey, (360, 232), (800, 232), PRINTED, 2)
    for number, letter in enumerate("Yuki"):
        write(grey, letter, 380 + 60 * number, 225, 60)


def heading(grey: np.ndarray) -> None:
    for number, letter in enumerate("かなのテスト"):
        write(grey, letter, 250 + 110 * number, 200, 90)


def turned(grey: np.ndarray) -> None:
    turn = cv2.getRotationMatrix2D((WIDTH / 2, HEIGHT / 2), 3, 1)
    grey[:] = cv2.warpAffine(grey, turn, (WIDTH, HEIGHT), borderMode=cv2.BORDER_REPLICATE)


def places_on(grey: np.ndarray, **how: str) -> list[tuple[int, int, int] | None]:
    return [each.place for each in find_characters(grey, **how).characters]


def numbers_on(grey: np.ndarray, **how: str) -> list[int]:
    """The numbers of the characters that have a place."""
    return [each.number for each in places_on(grey, **how) if each]


FORMS = {
    "separate": {}, "light": {"shade": 190}, "touching": {"gap": 0}, "light, touching": {"gap": 0, "shade": 190},
    "near": {"gap": 6}, "small": {"side": 60, "gap": 8},
    "filling the page": {"gap": 0, "side": 125, "columns": 7, "rows": 4},
}  # fmt: skip


@pytest.mark.few(1)
@pytest.mark.parametrize("blank", [{1}, {8, 15}, {1, 2, 3, 4, 5}, {3, 4, 6, 7, 8, 9, 10}], ids=str)
@pytest.mark.parametrize("kind", FORMS)
def test_a_blank_box_keeps_its_number(kind, blank):
    shape = {"columns": 5, "rows": 3} | FORMS[kind]
    columns, count = shape["columns"], shape["columns"] * shape["rows"]
    page = find_characters(form(blank, **shape))
    expected = [number for number in range(1, count + 1) if number not in blank]
    assert [each.place.number for each in page.characters] == expected
    assert [each.place[1:] for each in page.characters] == [
        (1 + (n - 1) // columns, 1 + (n - 1) % columns) for n in expected
    ]
    assert len(page.boxes) == count and not page.is_plain
    for each in page.characters:
        assert overlap(page.boxes[each.place.number - 1], each.box) > 0.05


@pytest.mark.few(1)
@pytest.mark.parametrize("change", [turned, with_edges, specked, shaded], ids=lambda each: each.__name__)
@pytest.mark.parametrize("above", [name_above, heading], ids=lambda each: each.__name__)
def test_ink_above_the_boxes_is_found_and_has_no_place(above, change):
    blank = {1, 8, 11}
    for options in ({}, {"gap": 0, "shade": 190}):
        grey = form(blank, **options)
        above(grey)
        change(grey)
        places = places_on(grey)
        outside = places.index(next(filter(None, places)))
        assert outside >= 4 and set(places[:outside]) == {None}
        assert [each.number for each in places[outside:]] == [n for n in range(1, 16) if n not in blank]


def test_light_ink_on_dark_boxes_has_its_numbers():
    assert numbers_on(255 - form({2, 7})) == [n for n in range(1, 16) if n not in {2, 7}]


def test_blank_boxes_are_counted_though_nothing_is_written():
    page = find_characters(form(set(range(1, 16))))
    assert page.characters == [] and len(page.boxes) == 15
    grey = form(set(range(1, 16)))
    name_above(grey)
    page = find_characters(grey)
    assert len(page.characters) >= 4 and {each.place for each in page.characters} == {None} and len(page.boxes) == 15


def test_ink_in_a_box_of_another_size_has_no_place():
    grey = form({2})
    cv2.rectangle(grey, (200, 150), (700, 240), INK, 3)
    for number, letter in enumerate("Yuki"):
        write(grey, letter, 230 + 80 * number, 220, 60)
    places = places_on(grey)
    assert places[:4] == [None] * 4 and [each.number for each in places[4:]] == [1, *range(3, 16)]


def test_a_cell_as_wide_as_two_is_no_box():
    grey = form({1, 2, 9}, gap=0)
    cv2.rectangle(grey, (307, 303), (313, 407), PAPER, cv2.FILLED)  # between boxes 1 and 2
    write(grey, "お", 270, 380, 60)
    page = find_characters(grey)
    assert [each.place and each.place.number for each in page.characters] == [
        None, 1, 2, 3, 4, 5, 6, 8, 9, 10, 11, 12, 13,
    ]  # fmt: skip
    assert len(page.boxes) == 13


@pytest.mark.few(1)
@pytest.mark.parametrize("gap", [0, 18])
@pytest.mark.parametrize("number", [1, 5, 8, 15])
def test_a_box_whose_sides_are_covered_or_crossed_keeps_its_number(number, gap):
    grey = form({2, number}, gap=gap)
    x, y = 200 + (number - 1) % 5 * (110 + gap), 300 + (number - 1) // 5 * (110 + gap)
    cv2.line(grey, (x + 55, y - 6), (x + 55, y + 116), INK, 9)  # from side to side, and beyond
    cv2.line(grey, (x + 20, y + 50), (x + 90, y + 60), INK, 12)
    cv2.line(grey, (x - 4, y + 20), (x + 30, y + 90), INK, 20)
    assert numbers_on(grey) == [n for n in range(1, 16) if n != 2]


def test_a_printed_number_in_a_narrow_cell_or_above_a_box_has_no_place():
    labelled, table = form({2, 5}, gap=40), sheet()
    for number in range(15):
        write(labelled, str(number + 1), 240 + number % 5 * 150, 292 + number // 5 * 150, 24)
    for number in range(10):
        x, y = 200 + number // 5 * 260, 200 + number % 5 * 110
        cv2.rectangle(table, (x, y), (x + 50, y + 110), INK, 3)
        cv2.rectangle(table, (x + 50, y), (x + 160, y + 110), INK, 3)
        write(table, str(number + 1), x + 10, y + 70, 30)
        if number not in (2, 5):
            write(table, "お", x + 75, y + 85, 65)
    assert numbers_on(labelled) == [n for n in range(1, 16) if n not in {2, 5}]
    assert numbers_on(table) == [1, 3, 4, 6, 7, 8, 9, 10]  # row by row, two in each


def test_quarters_between_dashed_guides_are_no_boxes():
    grey = form({1, 8, 11})
    for number in range(15):
        x, y = 200 + number % 5 * 128, 300 + number // 5 * 128
        for start in range(0, 110, 10):
            cv2.line(grey, (x + start, y + 55), (x + start + 5, y + 55), 190, 1)
            cv2.line(grey, (x + 55, y + start), (x + 55, y + start + 5), 190, 1)
    page = find_characters(grey)
    assert len(page.boxes) in (0, 15) and len(page.characters) <= 18


def test_boxes_that_nearly_touch_are_found():
    grey = sheet()
    for number in range(15):
        x, y = 200 + number % 5 * 116, 300 + number // 5 * 116
        cv2.rectangle(grey, (x, y), (x + 110, y + 110), INK, 5)
        if number not in (0, 7):
            write(grey, "お", x + 25, y + 80, 60)
    assert numbers_on(grey) == [n for n in range(1, 16) if n not in {1, 8}]


def test_boxes_in_rows_of_several_lengths_are_numbered_in_reading_order():
    grey, rows = sheet(), (3, 5, 2)
    for row, count in enumerate(rows):
        for column in range(count):
            x, y = 200 + column * 130 + 40 * row, 200 + row * 170
            cv2.rectangle(grey, (x, y), (x + 110, y + 110), INK, 3)
            if (row, column) not in ((0, 1), (1, 0)):
                write(grey, "お", x + 20, y + 80, 60)
    places = places_on(grey)
    assert [tuple(each) for each in places] == [
        (1, 1, 1), (3, 1, 3), (5, 2, 2), (6, 2, 3), (7, 2, 4), (8, 2, 5), (9, 3, 1), (10, 3, 2)
    ]  # fmt: skip


def test_boxes_are_numbered_column_by_column_from_the_right():
    grey = form({1, 8}, columns=4)
    places = places_on(grey, order="columns")
    expected = [(n, 1 + (n - 1) % 3, 1 + (n - 1) // 3) for n in range(1, 13)]
    assert [tuple(each) for each in places] == [each for each in expected if each[1:] not in ((1, 4), (2, 1))]


@pytest.mark.few(1)
@pytest.mark.parametrize("order, expected", [
    ("rows", [(1, 1, 1), (2, 1, 2), (3, 2, 1), (4, 2, 2)]), ("columns", [(1, 1, 1), (2, 2, 1), (3, 1, 2), (4, 2, 2)]),
])  # fmt: skip
@pytest.mark.parametrize("paper", [name for name in PAPERS if name != "boxed"])
def test_without_boxes_the_place_is_that_in_reading_order(paper, order, expected):
    grey = sheet()
    PAPERS[paper](grey)
    for x, y in ((300, 300), (700, 300), (300, 650), (700, 650)):
        write(grey, "お", x, y)
    page = find_characters(grey, order=order)
    assert [tuple(each.place) for each in page.characters] == expected and page.boxes.shape == (0, 4)


@pytest.mark.few(1)
@pytest.mark.parametrize("step", [40, 60, 110])
@pytest.mark.parametrize("is_turned", [True, False])
def test_squared_paper_has_no_boxes(step, is_turned):
    grey = sheet()
    squared(grey, step)
    write(grey, "お", 700, 650)
    if is_turned:
        turned(grey)
    page = find_characters(grey)
    assert page.boxes.shape == (0, 4) and [tuple(each.place) for each in page.characters] == [(1, 1, 1)]


def test_a_page_of_text_with_a_few_boxes_counts_characters():
    grey = sheet()
    for number in range(3):
        cv2.rectangle(grey, (100 + 100 * number, 100), (160 + 100 * number, 160), INK, 3)
    for number in range(24):
        write(grey, TEXTS[number % len(TEXTS)], 100 + number % 8 * 110, 350 + number // 8 * 150, 70)
    places = places_on(grey)
    assert [each.number for each in places] == list(range(1, len(places) + 1)) and len(places) >= 24


@pytest.mark.slow
def test_blank_boxes_below_a_name_keep_their_numbers_on_composed_pages(digit_images):
    right = wanted = 0
    for seed in range(4):
        composed = pages.compose(digit_images, np.random.default_rng([seed, 7]), pages.BLANKS, count=15, size=80)
        characters = find_characters(cv2.cvtColor(composed.picture, cv2.COLOR_RGB2GRAY)).characters
        for box, number in zip(composed.boxes, composed.numbers, strict=True):
            best = max(characters, key=lambda each, box=box: overlap(each.box, box))
            wanted += number > 0
            right += bool(number and best.place and best.place.number == number and overlap(best.box, box) >= 0.5)
    assert right >= 0.97 * wanted


# --- known boxes ---


def test_ink_of_known_boxes_is_divided_between_them():
    grey = sheet()
    boxes = np.array([(100 + 150 * column, 100 + 150 * row, 150, 150) for row in range(2) for column in range(4)])
    write(grey, "お", 140, 220, 100)
    cv2.line(grey, (420, 180), (680, 180), INK, 8)  # in boxes 3 and 4
    write(grey, "い", 270, 380, 100)
    write(grey, "お", 900, 700)  # in none
    page = find_characters(grey, boxes=boxes)
    assert [tuple(each.place) for each in page.characters] == [(1, 1, 1), (3, 1, 3), (4, 1, 4), (6, 2, 2)]
    assert [each.box[0] + each.box[2] for each in page.characters][1] == pytest.approx(550, abs=10)
    assert np.array_equal(page.boxes, boxes)


# --- pages without characters ---


def specks(count: int) -> np.ndarray:
    grey = sheet()
    for x, y in np.random.default_rng(2).integers(0, (WIDTH, HEIGHT), (count, 2)).tolist():
        cv2.circle(grey, (x, y), 1, 60, cv2.FILLED)
    return grey


@pytest.mark.parametrize("grey", [
    sheet(), specks(5000), np.full((1, 10_000), 255, np.uint8), np.full((64, 64), 128, np.uint8),
    np.zeros((300, 300), np.uint8), np.random.default_rng(3).integers(0, 256, (400, 500), np.uint8),
], ids=["paper", "specks", "strip", "grey", "black", "noise"])  # fmt: skip
def test_nothing_is_found_where_nothing_is(grey):
    assert find_characters(grey).characters == []


@pytest.mark.parametrize("shape", [(1, 10_000), (10_000, 1), (64, 3), (2, 2), (65, 4000)])
def test_pictures_of_any_shape_are_answered(shape):
    grey = np.full(shape, 255, np.uint8)
    grey[:, shape[1] // 3 : shape[1] // 2] = 0
    with warnings.catch_warnings(action="error"):
        result = find_characters(grey)
    assert all(min(each.box[2:]) >= 1 for each in result.characters)


def test_printed_text_is_found_letter_by_letter():
    grey = sheet()
    for row in range(6):
        for column in range(16):
            write(
                grey[100 + row * 120 : 200 + row * 120], "etaoinshrdlu"[(row + column) % 12], 100 + column * 65, 80, 50
            )
    assert 90 <= len(find_characters(grey).characters) <= 102


@pytest.mark.slow
def test_the_same_page_gives_the_same_twice():
    grey = sheet()
    squared(grey)
    write(grey, "きすつ", 300, 650)
    one, other = find_characters(grey), find_characters(grey)
    assert [each.box for each in one.characters] == [each.box for each in other.characters]
    assert all(np.array_equal(a.ink, b.ink) for a, b in zip(one.characters, other.characters, strict=True))
    assert not one.is_plain and find_characters(write_on_plain()).is_plain


def write_on_plain() -> np.ndarray:
    grey = sheet()
    write(grey, "き", 300, 650)
    return grey


# --- composed pages, of the digits (tests/pages.py does the same with KMNIST's test images) ---


@pytest.mark.few(1)
@pytest.mark.parametrize("kind", [kind for kind in pages.KINDS if kind != "touching"])
def test_the_characters_of_composed_pages_are_found(digit_images, kind):
    hits = wanted = false = 0
    for seed in range(2):
        composed = pages.compose(digit_images, np.random.default_rng([seed, 7]), kind, count=12, size=70 + 40 * seed)
        boxes = boxes_on(cv2.cvtColor(composed.picture, cv2.COLOR_RGB2GRAY), order=composed.order)
        best = [max((overlap(box, each) for each in boxes), default=0) for box in composed.boxes]
        wanted, hits = wanted + len(best), hits + sum(each >= 0.5 for each in best)
        false += sum(max(overlap(box, each) for box in composed.boxes) < 0.5 for each in boxes)
    assert hits >= 0.94 * wanted and false <= 0.06 * wanted


def test_pairs_on_composed_pages_are_cut(digit_images):
    composed = pages.compose(digit_images, np.random.default_rng([0, 7]), "touching", count=40, size=80)
    grey = cv2.cvtColor(composed.picture, cv2.COLOR_RGB2GRAY)
    characters = find_characters(grey, order=composed.order).characters
    common = pages.common_area(composed.boxes, np.array([each.box for each in characters]))
    are_pairs = (common > 0.8 * composed.boxes[:, 2:].prod(1)[:, None]).sum(0) > 1
    are_cut = np.array([len(each.parts) == 2 for each in characters])
    assert (
        are_pairs.sum() >= 5
        and (are_cut & are_pairs).sum() >= 0.8 * are_pairs.sum()
        and not (are_cut & ~are_pairs).any()
    )


@pytest.fixture(scope="module")
def digit_images() -> np.ndarray:
    """The digits' test images, (N, 28, 28), light on black."""
    from neural_lib.data.images import load_images

    return load_images("digits", "nowhere", train=False).images[:, 0].numpy()


def test_the_ink_of_a_character_is_that_of_its_picture_alone():
    grey = sheet()
    box = write(grey, "お", 700, 650)
    (character,) = find_characters(grey).characters
    left, top, width, height = box
    alone = ink.find_ink(grey[top - 60 : top + height + 60, left - 60 : left + width + 60])
    assert abs(np.subtract(alone.shape, character.ink.shape)).max() <= 3
    same = cv2.resize(character.ink, alone.shape[::-1])
    assert np.abs(same - alone).mean() < 0.05
    assert max(character.box[2:]) >= page.SMALLEST


def test_a_face_is_no_page_of_characters():
    y, x = np.mgrid[-1:1:600j, -0.8:0.8:480j]
    grey = 120 + 60 * x + np.zeros_like(y)  # a lit wall, a head before it
    head = (x / 0.5) ** 2 + (y / 0.7) ** 2 < 1
    grey[head] = (190 - 90 * (x + 0.1) ** 2 - 40 * y**2)[head]
    grey[((x / 0.53) ** 2 + ((y + 0.3) / 0.5) ** 2 < 1) & (y < -0.45)] = 40  # hair
    for eye in (-0.2, 0.2):
        grey[((x - eye) / 0.09) ** 2 + ((y + 0.1) / 0.05) ** 2 < 1] = 60
    grey[(x / 0.2) ** 2 + ((y - 0.4) / 0.04) ** 2 < 1] = 90
    grey = cv2.GaussianBlur(grey, (0, 0), 4) + np.random.default_rng(4).normal(0, 3, grey.shape)
    result = find_characters(grey.round().clip(0, 255).astype(np.uint8))
    assert len(result.characters) <= 6
