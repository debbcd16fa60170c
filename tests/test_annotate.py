import cv2
import numpy as np
import pytest
import torch

from neural_lib import annotate

IMAGE = np.tile(np.arange(28, dtype=np.uint8) * 9, (28, 1))
CAPTION = annotate.TILE_WIDTH  # the first row below the picture


def has_hue(tile, bgr) -> bool:
    """Whether some pixel of the caption is exactly of that colour."""
    return bool((tile[CAPTION:].reshape(-1, 3) == bgr).all(axis=1).any())


def test_the_image_is_enlarged_and_unchanged():
    tile = annotate.annotate(IMAGE, "su す", 0.998, "su す")
    assert tile.dtype == np.uint8 and tile.shape == (168 + 60, 168, 3)
    assert np.array_equal(tile[3:168:6, 3:168:6, 0], IMAGE)


def test_a_tile_for_the_window_is_the_same_at_twice_the_size():
    tile = annotate.annotate(IMAGE, "ki き", 0.9, "su す", scale=2)
    assert tile.shape == (2 * 228, 2 * 168, 3)
    assert np.array_equal(tile[:336:2, ::2], annotate.annotate(IMAGE, "ki き", 0.9, "su す")[:168])


def test_right_is_green_and_wrong_is_red_with_the_truth():
    right = annotate.annotate(IMAGE, "su す", 0.9, "su す")
    wrong = annotate.annotate(IMAGE, "ki き", 0.9, "su す")
    assert has_hue(right, annotate.GREEN) and not has_hue(right, annotate.RED)
    assert has_hue(wrong, annotate.RED) and not has_hue(wrong, annotate.GREEN)
    second_line = slice(CAPTION + annotate.LINE_HEIGHT, None)
    assert right[second_line].std() == 0 and wrong[second_line].std() > 0


def test_hiragana_is_really_drawn():
    # another character, other pixels; and no two characters that come out as the same "unknown" box
    drawn = {annotate.annotate(IMAGE, glyph, 1.0, glyph).tobytes() for glyph in "おきすつなはまやれを"}
    assert len(drawn) == 10


@pytest.mark.parametrize("name", ["T-shirt/top", "a very long class name indeed", "W" * 40])
def test_a_long_name_stays_inside_the_tile(name):
    tile = annotate.annotate(IMAGE, name, 1.0, "other " + name)
    shorter = annotate.annotate(IMAGE, "W", 1.0, "W")
    assert tile.shape == shorter.shape
    if len(name) < 40:  # what even the smallest size can't fit is cut at the edge
        assert (tile[CAPTION:, -annotate.MARGIN // 2 :] == annotate.BACKGROUND).all()


def test_colour_images_are_taken_as_rgb():
    red = np.zeros((32, 32, 3), np.uint8)
    red[..., 0] = 255
    tile = annotate.annotate(red, "a", 1.0, "a")
    assert tile[0, 0].tolist() == [0, 0, 255]  # BGR
    assert tile.shape == (168 + 60, 168, 3)


@pytest.mark.parametrize("height, width", [(300, 100), (40, 400), (28, 28), (1, 1), (1, 500)])
def test_a_picture_of_ones_own_is_shown_whole(height, width):
    picture = np.full((height, width, 3), (250, 10, 10), np.uint8)  # red
    tile = annotate.recognised(picture, "su す", 0.5, "scan.png")
    assert tile.shape == (168 + 60, 168, 3)
    red = (tile[:168] == (10, 10, 250)).all(axis=2)  # BGR
    scale = 168 / max(height, width)
    assert red.sum() == pytest.approx(max(1, round(height * scale)) * max(1, round(width * scale)))
    assert tile[168:].std() > 0


def test_what_the_network_saw_stands_beside_it():
    picture = np.zeros((50, 50, 3), np.uint8)
    tile = annotate.recognised(picture, "su す", 0.5, "scan.png", seen=IMAGE)
    assert tile.shape == (168 + 60, 2 * 168 + annotate.MARGIN, 3)
    assert np.array_equal(tile[:168, -168:], annotate.enlarged(IMAGE, 168))
    assert annotate.recognised(picture, "su す", 0.5, "scan.png", IMAGE, scale=2).shape == (2 * 228, 2 * 342, 3)


def test_bars_are_as_long_as_the_probabilities():
    chart = annotate.bars(["ki き", "su す", "o お"], [0.75, 0.25, 0.0], 280, 132)
    assert chart.shape == (132, 280, 3)
    lengths = [(chart[44 * row + annotate.LINE_HEIGHT + 4] != annotate.DARK).all(axis=1).sum() for row in range(3)]
    lengths = [int(length) - 2 * annotate.MARGIN for length in lengths]
    assert lengths == pytest.approx([0.75 * 268, 0.25 * 268, 0], abs=3)
    assert annotate.bars([], [], 280, 132).shape == (132, 280, 3)


def test_lines_of_text_stand_below_each_other():
    text = annotate.lines(["c clear", "", "q quit"], 200)
    assert text.shape == (3 * annotate.LINE_HEIGHT, 200, 3)
    stands = [text[row * annotate.LINE_HEIGHT : (row + 1) * annotate.LINE_HEIGHT].std() > 0 for row in range(3)]
    assert stands == [True, False, True]


@pytest.mark.parametrize("count, columns, rows", [(1, 1, 1), (4, 4, 1), (10, 5, 2), (12, 5, 3), (100, 12, 9)])
def test_every_tile_is_on_the_montage(count, columns, rows):
    tiles = [np.full((228, 168, 3), 50 + value % 200, np.uint8) for value in range(count)]
    canvas = annotate.montage(tiles)
    assert canvas.shape == (rows * 234, columns * 174, 3)
    centres = canvas[117::234, 87::174, 0].ravel()
    assert centres[:count].tolist() == [50 + value % 200 for value in range(count)]


@pytest.mark.parametrize("suffix", annotate.SUFFIXES)
def test_every_promised_ending_can_be_written(suffix):
    picture = annotate.montage([annotate.annotate(IMAGE, "su す", 0.9, "su す")])
    content = np.frombuffer(annotate.encode(picture, suffix), np.uint8)
    assert cv2.imdecode(content, cv2.IMREAD_COLOR).shape == picture.shape


@pytest.mark.parametrize("count", [0, 1, 28])
def test_a_line_of_text_stands_above_the_tiles(count):
    tile = annotate.annotate(np.full((28, 28), 255, np.uint8), "o", 0.5, "ki")
    picture = annotate.headed([tile] * count, "28 mistakes")
    head = picture.shape[0] - (annotate.montage([tile] * count).shape[0] if count else 0)
    assert 0 < head < 60 and picture[:head].std() > 5
    if count:
        tiles = annotate.montage([tile] * count)
        assert np.array_equal(picture[head:, : tiles.shape[1]], tiles)


def test_a_glyph_is_ink_on_nothing():
    pictures = [annotate.glyph(each) for each in "おきすつなはまやれを"]
    for picture in pictures:
        height, width, channels = picture.shape
        assert channels == 4 and picture.dtype == np.uint8 and 0.5 < width / height < 1
        alpha = picture[..., 3]
        assert alpha.max() == 255 and 0.03 < (alpha > 128).mean() < 0.4 and picture[..., :3].max() == 0
        assert max(alpha[0].max(), alpha[-1].max()) == 0  # nothing is cut off above or below
    assert len({picture.tobytes() for picture in pictures}) == 10


def test_pixels_are_a_pictures_own():
    colour = torch.arange(24, dtype=torch.uint8).view(3, 2, 4)
    assert np.array_equal(annotate.pixels_of(colour), colour.permute(1, 2, 0).numpy())
    assert np.array_equal(annotate.pixels_of(colour[:1]), colour[0].numpy())
