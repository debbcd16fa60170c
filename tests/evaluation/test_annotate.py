import itertools

import cv2
import numpy as np
import pytest
from PIL import Image

from neural_lib.evaluation import annotate
from neural_lib.evaluation.annotate import PAGE, Montage

IMAGE = np.tile(np.arange(28, dtype=np.uint8) * 9, (28, 1))
CAPTION = annotate.TILE_WIDTH  # the first row below the picture


def caption_has(tile, bgr) -> bool:
    """True if some pixel of the caption has exactly this colour."""
    return bool((tile[CAPTION:].reshape(-1, 3) == bgr).all(axis=1).any())


def test_the_image_is_enlarged_and_unchanged():
    tile = annotate.annotate_image(IMAGE, "su す", 0.998, "su す")
    assert tile.dtype == np.uint8 and tile.shape == (168 + 60, 168, 3)
    assert np.array_equal(tile[3:168:6, 3:168:6, 0], IMAGE)


def test_a_tile_for_the_window_is_the_same_at_twice_the_size():
    tile = annotate.annotate_image(IMAGE, "ki き", 0.9, "su す", scale=2)
    assert tile.shape == (2 * 228, 2 * 168, 3)
    assert np.array_equal(tile[:336:2, ::2], annotate.annotate_image(IMAGE, "ki き", 0.9, "su す")[:168])


def test_right_is_green_and_wrong_is_red_with_the_truth():
    right = annotate.annotate_image(IMAGE, "su す", 0.9, "su す")
    wrong = annotate.annotate_image(IMAGE, "ki き", 0.9, "su す")
    assert caption_has(right, annotate.GREEN) and not caption_has(right, annotate.RED)
    assert caption_has(wrong, annotate.RED) and not caption_has(wrong, annotate.GREEN)
    second_line = slice(CAPTION + annotate.LINE_HEIGHT, None)
    assert right[second_line].std() == 0 and wrong[second_line].std() > 0


def test_hiragana_is_really_drawn():
    # All drawings differ, so no character is drawn as the font's box for unknown characters.
    drawn = {annotate.annotate_image(IMAGE, glyph, 1.0, glyph).tobytes() for glyph in "おきすつなはまやれを"}
    assert len(drawn) == 10


def glyph_of(text: str) -> np.ndarray:
    return annotate.glyph(text)[..., 3].astype(float)


def test_a_character_that_the_font_lacks_is_a_square_and_no_question_mark():
    for lacking in ("🐜", "ไทย", "\U0010fffd"):
        assert np.array_equal(glyph_of(lacking), glyph_of(annotate.LACKING * len(lacking)))
    assert not np.array_equal(glyph_of("🐜"), glyph_of("?"))
    assert np.array_equal(glyph_of("ע🐜"), glyph_of("ע" + annotate.LACKING))


def test_right_to_left_scripts_are_drawn_in_their_order_and_joined():
    both, first, second = (glyph_of(text) for text in ("אב", "א", "ב"))
    right, left = both[:, -first.shape[1] :], both[:, : second.shape[1]]
    assert abs(right - first).mean() < 10 and abs(left - second).mean() < 10  # grey levels; a pixel's share may differ
    assert glyph_of("ببب").shape[1] < 0.8 * 3 * glyph_of("ب").shape[1]
    tile = annotate.annotate_image(IMAGE, "عربي", 0.9, "عربي")
    assert caption_has(tile, annotate.GREEN) or tile[CAPTION:].std() > 10
    assert not np.array_equal(tile, annotate.annotate_image(IMAGE, "عربي", 0.8, "عربي"))


def test_text_at_the_edge_is_cut_off_in_every_script():
    for text, origin in itertools.product(("a girl", "عربي"), ((20, 5), (0, 22), (2, 2))):
        canvas = np.zeros((20, 30, 3), np.uint8)
        annotate._put_text(canvas, text, origin, annotate.WHITE, 20)
        assert canvas.any()


@pytest.mark.parametrize("name", ["a very long class name with many words", "漢字の長い名前である事のこと"])
def test_a_long_name_is_shortened_alike_in_every_picture(name):
    short = annotate.shortened(name)
    assert "..." in short and len(short) < len(name)
    box = [(40, 60, 80, 90)]
    for draw in (
        lambda name: annotate.annotate_image(IMAGE, name, 0.9, "other"),
        lambda name: annotate.annotate_picture(a_page(), name, 0.9, "p.png"),
        lambda name: annotate.annotate_page(a_page(), box, [annotate.shortened(name)], [annotate.DARK_GREEN]),
    ):
        assert np.array_equal(draw(name), draw(short))
    assert not np.array_equal(*(annotate.annotate_image(IMAGE, name, each, "a")[CAPTION:] for each in (0.91, 0.92)))


def test_any_width_is_enough_to_shorten():
    assert [annotate.shortened("a long name", width) for width in (1, 3, 4)] == ["...", "...", "...e"]


@pytest.mark.parametrize("name", ["T-shirt/top", "a very long class name indeed", "W" * 40])
def test_a_long_name_stays_inside_the_tile(name):
    tile = annotate.annotate_image(IMAGE, name, 1.0, "other " + name)
    shorter = annotate.annotate_image(IMAGE, "W", 1.0, "W")
    assert tile.shape == shorter.shape
    assert (tile[CAPTION:, -annotate.MARGIN // 2 :] == annotate.BACKGROUND).all()
    tile = annotate.annotate_picture(a_page(), name, 0.9, f"{name} {name} {name}.jpg")  # its caption isn't a name
    assert (tile[CAPTION:, -annotate.MARGIN // 2 :] == annotate.BACKGROUND).all()


def test_colour_images_are_taken_as_rgb():
    red = np.zeros((32, 32, 3), np.uint8)
    red[..., 0] = 255
    tile = annotate.annotate_image(red, "a", 1.0, "a")
    assert tile[0, 0].tolist() == [0, 0, 255]  # BGR
    assert tile.shape == (168 + 60, 168, 3)


@pytest.mark.parametrize("height, width", [(300, 100), (40, 400), (28, 28), (1, 1), (1, 500)])
def test_a_users_picture_is_shown_whole(height, width):
    picture = np.full((height, width, 3), (250, 10, 10), np.uint8)  # red
    tile = annotate.annotate_picture(picture, "su す", 0.5, "scan.png")
    assert tile.shape == (168 + 60, 168, 3)
    red = (tile[:168] == (10, 10, 250)).all(axis=2)  # BGR
    scale = 168 / max(height, width)
    assert red.sum() == pytest.approx(max(1, round(height * scale)) * max(1, round(width * scale)))
    assert tile[168:].std() > 0


def test_the_networks_input_is_shown_beside_the_picture():
    picture = np.zeros((50, 50, 3), np.uint8)
    tile = annotate.annotate_picture(picture, "su す", 0.5, "scan.png", seen=IMAGE)
    assert tile.shape == (168 + 60, 2 * 168 + annotate.MARGIN, 3)
    assert np.array_equal(tile[:168, -168:], annotate.fitted(IMAGE, 168))
    assert annotate.annotate_picture(picture, "su す", 0.5, "scan.png", IMAGE, scale=2).shape == (2 * 228, 2 * 342, 3)


def test_what_decided_is_shown_right_of_the_networks_input():
    picture, heat = np.zeros((50, 50, 3), np.uint8), np.zeros((7, 7), np.float32)
    heat[2, 5] = 1
    tile = annotate.annotate_picture(picture, "bee", 0.5, "a.jpg", IMAGE, heat)
    panel = annotate.TILE_WIDTH + annotate.MARGIN
    assert tile.shape == (168 + 60, 2 * panel + 168, 3)
    assert np.array_equal(tile[:168, panel:-panel], annotate.fitted(IMAGE, 168))
    assert np.array_equal(tile[:168, -168:], annotate.fitted(annotate.draw_heat(IMAGE, heat), 168))
    assert annotate.annotate_picture(picture, "bee", 0.5, "a.jpg", IMAGE, heat, scale=2).shape == (2 * 228, 2 * 516, 3)


@pytest.mark.parametrize("shape", [(28, 28), (28, 28, 3), (70, 56, 3)])
def test_heat_is_drawn_in_its_place_over_a_darker_picture(shape):
    image = np.full(shape, 200, np.uint8)
    image[: shape[0] // 2] = 20
    heat = np.zeros((7, 7), np.float32)
    cold = annotate.draw_heat(image, heat).astype(int)
    assert cold.shape == (*shape[:2], 3) and abs(2 * cold - np.broadcast_to(image.T, (3, *shape[1::-1])).T).max() < 9
    heat[2, 5] = 1
    warmer = annotate.draw_heat(image, heat).astype(int) - cold
    height, width = shape[0] // 7, shape[1] // 7
    row, column = np.unravel_index(warmer.sum(axis=2).argmax(), shape[:2])
    assert (row // height, column // width) == (2, 5)
    red, green, blue = warmer[row, column]
    assert red > 100 and red > blue  # yellow: RGB
    assert not warmer[:, : 3 * width].any() and not warmer[5 * height :].any()


@pytest.mark.parametrize("count, columns", [(1, 1), (3, 3), (12, 3), (100, 7)])
def test_wide_tiles_make_no_wider_montage(count, columns):
    assert annotate.montage([np.zeros((228, 516, 3), np.uint8)] * count).shape[1] == columns * 522


@pytest.mark.parametrize("count, columns, rows", [(1, 1, 1), (4, 4, 1), (12, 5, 3), (100, 12, 9)])
def test_every_tile_is_on_the_montage(count, columns, rows):
    tiles = [np.full((228, 168, 3), 50 + value % 200, np.uint8) for value in range(count)]
    canvas = annotate.montage(tiles)
    assert canvas.shape == (rows * 234, columns * 174, 3)
    centres = canvas[117::234, 87::174, 0].ravel()
    assert centres[:count].tolist() == [50 + value % 200 for value in range(count)]


@pytest.mark.parametrize("suffix", annotate.SUFFIXES)
def test_every_suffix_can_be_encoded(suffix):
    picture = annotate.montage([annotate.annotate_image(IMAGE, "su す", 0.9, "su す")])
    content = np.frombuffer(annotate.encode(picture, suffix), np.uint8)
    assert cv2.imdecode(content, cv2.IMREAD_COLOR).shape == picture.shape


@pytest.mark.parametrize("count", [0, 1, 28])
def test_a_heading_is_above_the_tiles(count):
    tile = annotate.annotate_image(np.full((28, 28), 255, np.uint8), "o", 0.5, "ki")
    picture = annotate.titled_montage([tile] * count, "28 mistakes")
    head = picture.shape[0] - (annotate.montage([tile] * count).shape[0] if count else 0)
    assert 0 < head < 60 and picture[:head].std() > 5
    if count:
        tiles = annotate.montage([tile] * count)
        assert np.array_equal(picture[head:, : tiles.shape[1]], tiles)


def test_a_glyph_is_black_on_transparent():
    pictures = [annotate.glyph(each) for each in "おきすつなはまやれを"]
    for picture in pictures:
        height, width, channels = picture.shape
        assert channels == 4 and picture.dtype == np.uint8 and 0.5 < width / height < 1
        alpha = picture[..., 3]
        assert alpha.max() == 255 and 0.03 < (alpha > 128).mean() < 0.4 and picture[..., :3].max() == 0
        assert max(alpha[0].max(), alpha[-1].max()) == 0  # nothing is cut off above or below
    assert len({picture.tobytes() for picture in pictures}) == 10


# --- pages of a long montage ---


@pytest.mark.parametrize("added, written", [
    (3, ["p.png"]), (PAGE, ["p.png"]), (PAGE + 5, ["p-page-1.png", "p-page-2.png"]), (0, []),
])  # fmt: skip
def test_every_tile_is_on_a_page(tmp_path, added, written):
    pages, max_held = Montage(tmp_path / "p.png"), 0
    for number in range(added):
        pages.add(np.full((60, 40, 3), 1 + number % 255, np.uint8))
        max_held = max(max_held, len(pages.tiles))
    assert [path.name for path in pages.finish()] == written == sorted(path.name for path in tmp_path.iterdir())
    assert max_held <= PAGE  # number of tiles in memory
    seen = set()
    for name in written:
        seen |= set(np.unique(cv2.imread(str(tmp_path / name))[..., 0]).tolist())
    assert seen >= set(range(1, 1 + added))


def test_a_page_is_headed_with_the_numbers_of_its_tiles(tmp_path):
    tile = np.zeros((60, 40, 3), np.uint8)
    pages = Montage(tmp_path / "p.png")
    for _ in range(PAGE + 5):
        pages.add(tile)
    for path, count, text in zip(pages.finish(), (PAGE, 5), ("1 to 100", "101 to 105"), strict=True):
        assert np.array_equal(cv2.imread(str(path)), annotate.titled_montage([tile] * count, text))


@pytest.mark.parametrize("content, expected", [
    (b"", False), (annotate.MARK[1:], False), (annotate.MARK, True), (b"picture" + annotate.MARK, True),
    (annotate.MARK + b"picture", False), (b"another program's picture", False),
])  # fmt: skip
def test_a_montage_is_known_by_its_mark(tmp_path, content, expected):
    (tmp_path / "any name").write_bytes(content)
    assert annotate.is_montage(tmp_path / "any name") is expected


def test_what_is_no_file_is_no_montage(tmp_path):
    assert not annotate.is_montage(tmp_path) and not annotate.is_montage(tmp_path / "nowhere.png")


@pytest.mark.parametrize("suffix", annotate.SUFFIXES)
def test_the_mark_of_a_montage_does_not_disturb_readers(tmp_path, suffix):
    pages = Montage(tmp_path / f"p{suffix}")
    pages.add(np.full((228, 168, 3), 200, np.uint8))
    (path,) = pages.finish()
    assert annotate.is_montage(path)
    assert abs(int(np.median(cv2.imread(str(path)))) - 200) < 5 and Image.open(path).convert("RGB").size == (174, 234)


# --- pages with boxes ---


def a_page() -> np.ndarray:
    return np.full((300, 400, 3), (250, 240, 230), np.uint8)


def test_each_character_gets_a_box_and_the_page_stays_as_it_is():
    boxes = [(40, 60, 80, 90), (200, 60, 80, 90)]
    colours = [annotate.DARK_GREEN, annotate.DARK_AMBER]
    drawn = annotate.annotate_page(a_page(), boxes, ["1: su す", "2: tsu つ ?"], colours)
    assert drawn.shape == (300, 400, 3)
    for (left, top, width, height), colour in zip(boxes, colours, strict=True):
        assert tuple(drawn[top + height // 2, left - 4]) == colour == tuple(drawn[top + height + 4, left + width // 2])
        assert (drawn[top : top + height, left : left + width] == (230, 240, 250)).all()  # BGR
    right = annotate.annotate_page(a_page(), boxes[:1], ["1: su す"], colours[:1])
    assert np.array_equal(drawn[:, :160], right[:, :160])  # a label is beside its box, whatever the other boxes are


def test_a_page_of_small_characters_is_enlarged():
    drawn = annotate.annotate_page(a_page(), [(40, 60, 20, 30)], ["8"], [annotate.DARK_GREEN])
    assert drawn.shape == (600, 800, 3)
    assert tuple(drawn[150, 2 * 40 - 4]) == annotate.DARK_GREEN


@pytest.mark.parametrize("box", [(0, 0, 20, 20), (380, 280, 20, 20), (0, 290, 400, 10)])
def test_a_box_at_the_border_has_its_label_on_the_page(box):
    drawn = annotate.annotate_page(a_page(), [box], ["a long name"], [annotate.DARK_GREEN])
    assert (drawn == annotate.DARK_GREEN).all(2).sum() > 500 and (drawn == 255).all(2).any()  # the label has text


def test_an_unsure_answer_is_marked():
    picture = np.full((60, 60, 3), 255, np.uint8)
    sure, unsure = (annotate.annotate_picture(picture, "su す", 0.4, "a.png", is_sure=each) for each in (True, False))
    assert not np.array_equal(sure, unsure) and annotate.percent(0.4, False) == "40.0% ?"


def test_a_label_hides_no_other_character():
    boxes = [(40, 60, 80, 90), (40, 165, 80, 90)]  # below each other
    drawn = annotate.annotate_page(a_page(), boxes, ["8", "8"], [annotate.DARK_GREEN] * 2)
    for left, top, width, height in boxes:
        assert (drawn[top : top + height, left : left + width] == (230, 240, 250)).all()


def test_a_label_leaves_room_for_the_next_one():
    boxes, colours = [(40, 60, 60, 60), (110, 60, 60, 60)], [annotate.DARK_RED, annotate.DARK_GREEN]
    drawn = annotate.annotate_page(a_page(), boxes, ["10: つ, not れ", "11: れ"], colours)
    alone = annotate.annotate_page(a_page(), boxes[1:], ["11: れ"], colours[1:])
    assert np.array_equal(drawn[:, 106:], alone[:, 106:])  # all of the first box and its label is left of the second


def test_a_box_without_a_text_is_not_drawn_and_no_label_hides_it():
    boxes, colours = [(40, 60, 80, 90), (40, 155, 80, 90)], [annotate.DARK_GREEN] * 2
    drawn = annotate.annotate_page(a_page(), boxes, ["", "8"], colours)
    left, top, width, height = boxes[0]
    assert (drawn[top : top + height, : left + width] == (230, 240, 250)).all()  # BGR
    assert (drawn[155:] == annotate.DARK_GREEN).all(2).any()


def test_a_caption_stands_above_the_page():
    plain, named, more = (
        annotate.annotate_page(a_page(), [(40, 60, 80, 90)], ["8"], [annotate.DARK_GREEN], caption)
        for caption in ("", "a.png", "a.png\n8 right of 9\n")
    )
    head = len(named) - len(plain)
    assert head > 20 and np.array_equal(named[head:], plain) and named[:head].std() > 5
    assert np.array_equal(more[:head], named[:head]) and np.array_equal(more[2 * head :], plain)


@pytest.mark.parametrize("things, written", [
    ("s", ["p.png"]), ("t", ["p.png"]), ("ss", ["p-sheet-1.png", "p-sheet-2.png"]),
    ("st", ["p-sheet-1.png", "p.png"]), ("tst", ["p-sheet-1.png", "p.png"]), ("", []),
    ("s" + "t" * (PAGE + 1), ["p-page-1.png", "p-page-2.png", "p-sheet-1.png"]),
])  # fmt: skip
def test_an_annotated_page_is_a_file_of_its_own(tmp_path, things, written):
    pages = Montage(tmp_path / "p.png")
    for each in things:
        pages.add(np.zeros((60, 40, 3), np.uint8)) if each == "t" else pages.add_sheet(np.zeros((70, 80, 3), np.uint8))
    assert sorted(path.name for path in pages.finish()) == sorted(path.name for path in tmp_path.iterdir()) == written
    assert all(annotate.is_output(tmp_path / name, tmp_path / "p.png") for name in written)
    sheets = [name for name in written if cv2.imread(str(tmp_path / name)).shape == (70, 80, 3)]
    assert len(sheets) == things.count("s")


@pytest.mark.parametrize("name", ["p.jpg", "q.png", "p-1.png", "p-page-x.png", "p-sheet-1.png.png"])
def test_other_files_are_none_of_its_output(tmp_path, name):
    assert not annotate.is_output(tmp_path / name, tmp_path / "p.png")
    assert not annotate.is_output(tmp_path / "folder" / "p.png", tmp_path / "p.png")
