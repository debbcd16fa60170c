import cv2
import numpy as np
import pytest

from neural_lib import ink

GENERATOR = np.random.default_rng(0)


def page(height=120, width=160, ground=255) -> np.ndarray:
    return np.full((height, width), ground, np.uint8)


def with_bar(grey: np.ndarray, ink_level: int = 0) -> np.ndarray:
    grey[30:80, 50:60] = ink_level  # 50 high, 10 wide
    return grey


@pytest.mark.parametrize("ground, level", [(255, 0), (0, 255), (200, 60), (90, 180), (128, 0)])
def test_what_stands_out_from_the_border_is_ink(ground, level):
    found = ink.find(with_bar(page(ground=ground), level))
    assert found.shape == (50, 10) and found.dtype == np.float32
    assert found.min() == pytest.approx(1)


def test_who_asks_gets_the_darker_or_the_lighter():
    grey = with_bar(page(ground=128), 0)
    grey[100:110, 10:40] = 228
    assert ink.find(grey).shape == ink.find(grey, "yes").shape == (50, 10)
    assert ink.find(grey, "no").shape == (10, 30)


def test_a_light_character_that_fills_its_frame_is_told_by_the_border():
    grey = page(28, 28, 0)
    grey[:, 4:24] = 255  # more than half of it
    assert ink.find(grey).shape == (28, 20)


@pytest.mark.parametrize("grey", [
    page(), page(ground=0), page(1, 1), page(1, 1, 0), page(1, 40), with_bar(page(ground=200), 190),
    GENERATOR.normal(180, 8, (200, 300)).clip(0, 255).astype(np.uint8),  # the paper's grain
    np.linspace(120, 230, 200 * 300).reshape(200, 300).astype(np.uint8),  # a page lit from above
    np.where(GENERATOR.random((1024, 1024)) < 0.5, np.uint8(0), np.uint8(255)),
], ids=["white", "black", "1x1", "1x1 black", "1x40", "faint", "grain", "lit", "noise"])  # fmt: skip
def test_a_blank_page_has_no_ink(grey):
    with pytest.raises(ink.NoInk, match="^no ink found$"):
        ink.find(grey)


def test_the_stretch_reaches_from_the_ground_to_the_ink():
    grey = with_bar(page(ground=180), 100)
    grey[30:80, 60:65] = 140  # half as dark, beside it
    found = ink.find(grey)
    assert found.shape == (50, 15) and found[:, :10].min() == 1
    assert found[:, 12] == pytest.approx(0.5, abs=0.02)


def test_shading_and_grain_are_taken_away():
    lit = np.linspace(110, 230, 160)[None, :] + np.zeros((120, 1))
    lit = (lit + GENERATOR.normal(0, 4, lit.shape)).clip(0, 255).astype(np.uint8)
    found = ink.find(with_bar(lit, 30))
    assert found.shape[0] == pytest.approx(50, abs=2) and found.shape[1] == pytest.approx(10, abs=2)
    assert ink.find(with_bar(lit, 30), on_paper=False).shape[1] > 40  # the dark side of the page


@pytest.mark.parametrize("level", [90, 130, 150, 170, 230])
def test_a_dithered_page_gives_its_ink_or_none(level):
    grey = with_bar(page(800, 800, level)).astype(float)
    dithered = np.where(GENERATOR.random(grey.shape) * 255 < grey, np.uint8(255), np.uint8(0))
    try:
        assert np.isfinite(ink.find(dithered)).all()
    except ink.NoInk:
        assert level < 200


def test_a_page_that_gets_darker_towards_its_edges_is_still_the_ground():
    down, right = np.mgrid[-1:1:200j, -1:1:200j]
    lit = 235 - 60 * (down**2 + right**2)
    lit[80:120, 95:105] = 120  # no darker than the corners
    assert ink.find(lit.astype(np.uint8)).shape == (40, 10)


@pytest.mark.parametrize("size, width", [((120, 160), 1), ((1000, 1000), 8)])
def test_a_frame_around_the_page_is_no_ink(size, width):
    grey = with_bar(page(*size))
    framed = cv2.copyMakeBorder(grey, width, width, width, width, cv2.BORDER_CONSTANT, value=0)
    assert ink.find(framed).shape == (50, 10)


def test_dust_is_not_in_the_box():
    grey = with_bar(page())
    grey[5, 5] = grey[110, 150] = 0
    assert ink.find(grey).shape == (50, 10)
    grey[100:103, 50:60] = 0  # a stroke of its own
    assert ink.find(grey).shape == (73, 10)


@pytest.mark.parametrize("width", [3, 8, 20])
def test_the_width_of_strokes(width):
    strokes = np.zeros((300, 300), np.float32)
    cv2.line(strokes, (50, 40), (50, 250), 1.0, width)
    cv2.line(strokes, (150, 50), (250, 250), 1.0, width)
    assert ink.stroke_width(strokes) == pytest.approx(width, rel=0.25, abs=2)
    assert ink.stroke_width(ink.thickened(strokes, 10)) - ink.stroke_width(strokes) == pytest.approx(10, abs=2)


@pytest.mark.parametrize("by", [-3, 0, 0.9])
def test_nothing_is_made_thinner(by):
    strokes = np.ones((20, 5), np.float32)
    assert ink.thickened(strokes, by) is strokes
