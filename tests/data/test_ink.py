"""ink.py: ink is cut out of pictures and placed as in the images of a data set."""

import cv2
import drawn
import numpy as np
import pytest

from neural_lib.data import ink
from neural_lib.data.catalog import DATASETS, Placement
from neural_lib.data.images import load_images
from neural_lib.data.pictures import PictureError

GENERATOR = np.random.default_rng(0)
BOX, MASS = Placement(28, "box"), Placement(20, "mass")


def page(height=120, width=160, ground=255) -> np.ndarray:
    return np.full((height, width), ground, np.uint8)


def with_bar(grey: np.ndarray, ink_level: int = 0) -> np.ndarray:
    grey[30:80, 50:60] = ink_level  # 50 pixels high, 10 wide
    return grey


@pytest.mark.parametrize("ground, level", [(255, 0), (0, 255), (200, 60), (90, 180), (128, 0)])
def test_what_stands_out_from_the_border_is_ink(ground, level):
    cut_out = ink.find_ink(with_bar(page(ground=ground), level))
    assert cut_out.shape == (50, 10) and cut_out.dtype == np.float32
    assert cut_out.min() == pytest.approx(1)


def test_invert_chooses_the_darker_or_the_lighter():
    grey = with_bar(page(ground=128), 0)
    grey[100:110, 10:40] = 228
    assert ink.find_ink(grey).shape == ink.find_ink(grey, "yes").shape == (50, 10)
    assert ink.find_ink(grey, "no").shape == (10, 30)


def test_the_border_is_the_ground_of_a_character_that_fills_its_frame():
    grey = page(28, 28, 0)
    grey[:, 4:24] = 255  # more than half of the picture
    assert ink.find_ink(grey).shape == (28, 20)


@pytest.mark.parametrize("grey", [
    page(), page(ground=0), page(1, 1), page(1, 1, 0), page(1, 40), with_bar(page(ground=200), 190),
    GENERATOR.normal(180, 8, (200, 300)).clip(0, 255).astype(np.uint8),  # the paper's grain
    np.linspace(120, 230, 200 * 300).reshape(200, 300).astype(np.uint8),  # a page lit from above
    np.where(GENERATOR.random((1024, 1024)) < 0.5, np.uint8(0), np.uint8(255)),
], ids=["white", "black", "1x1", "1x1 black", "1x40", "faint", "grain", "lit", "noise"])  # fmt: skip
def test_a_blank_page_has_no_ink(grey):
    with pytest.raises(PictureError, match="^no ink found$"):
        ink.find_ink(grey)


def test_values_go_from_0_on_the_ground_to_1_on_the_ink():
    grey = with_bar(page(ground=180), 100)
    grey[30:80, 60:65] = 140  # a bar beside it, half as dark
    cut_out = ink.find_ink(grey)
    assert cut_out.shape == (50, 15) and cut_out[:, :10].min() == 1
    assert cut_out[:, 12] == pytest.approx(0.5, abs=0.02)


def test_shading_and_grain_are_removed():
    lit = np.linspace(110, 230, 160)[None, :] + np.zeros((120, 1))
    lit = (lit + GENERATOR.normal(0, 4, lit.shape)).clip(0, 255).astype(np.uint8)
    cut_out = ink.find_ink(with_bar(lit, 30))
    assert cut_out.shape[0] == pytest.approx(50, abs=2) and cut_out.shape[1] == pytest.approx(10, abs=2)
    assert ink.find_ink(with_bar(lit, 30), on_paper=False).shape[1] > 40  # the dark side of the page counts as ink


@pytest.mark.parametrize("level", [90, 130, 150, 170, 230])
def test_a_dithered_page_gives_its_ink_or_none(level):
    grey = with_bar(page(800, 800, level)).astype(float)
    dithered = np.where(GENERATOR.random(grey.shape) * 255 < grey, np.uint8(255), np.uint8(0))
    try:
        assert np.isfinite(ink.find_ink(dithered)).all()
    except PictureError:
        assert level < 200


def test_a_page_that_gets_darker_towards_its_edges_is_still_the_ground():
    down, right = np.mgrid[-1:1:200j, -1:1:200j]
    lit = 235 - 60 * (down**2 + right**2)
    lit[80:120, 95:105] = 120  # no darker than the corners
    assert ink.find_ink(lit.astype(np.uint8)).shape == (40, 10)


@pytest.mark.parametrize("size, width", [((120, 160), 1), ((1000, 1000), 8)])
def test_a_frame_around_the_page_is_no_ink(size, width):
    grey = with_bar(page(*size))
    framed = cv2.copyMakeBorder(grey, width, width, width, width, cv2.BORDER_CONSTANT, value=0)
    assert ink.find_ink(framed).shape == (50, 10)


def test_dust_is_not_in_the_box():
    grey = with_bar(page())
    grey[5, 5] = grey[110, 150] = 0
    assert ink.find_ink(grey).shape == (50, 10)
    grey[100:103, 50:60] = 0  # large enough to be a stroke
    assert ink.find_ink(grey).shape == (73, 10)


@pytest.mark.parametrize("width", [3, 8, 20])
def test_the_width_of_strokes(width):
    strokes = np.zeros((300, 300), np.float32)
    cv2.line(strokes, (50, 40), (50, 250), 1.0, width)
    cv2.line(strokes, (150, 50), (250, 250), 1.0, width)
    assert ink.stroke_width(strokes) == pytest.approx(width, rel=0.25, abs=2)
    assert ink.stroke_width(ink.thicken(strokes, 10)) - ink.stroke_width(strokes) == pytest.approx(10, abs=2)


@pytest.mark.parametrize("by", [-3, 0, 0.9])
def test_nothing_is_made_thinner(by):
    strokes = np.ones((20, 5), np.float32)
    assert ink.thicken(strokes, by) is strokes


# --- placed as a data set has it ---


def bar(height: int, width: int) -> np.ndarray:
    return np.ones((height, width), np.float32)


def box_of(image: np.ndarray) -> tuple[int, int, int, int]:
    rows, columns = image.any(1).nonzero()[0], image.any(0).nonzero()[0]
    return rows[0], rows[-1] + 1, columns[0], columns[-1] + 1


@pytest.mark.parametrize("height, width, expected", [
    (280, 140, (0, 28, 7, 21)),
    (7, 14, (7, 21, 0, 28)),  # enlarged
    (500, 1, (0, 28, 13, 14)),  # never narrower than a pixel
])  # fmt: skip
def test_the_longer_side_fills_the_box_in_the_middle(height, width, expected):
    image = ink.place(bar(height, width), BOX, 28)
    assert image.shape == (28, 28) and image.dtype == np.uint8 and image.max() == 255
    assert box_of(image) == expected


def test_the_centre_of_mass_lies_in_the_pixel_beyond_the_middle():
    heavy_below = np.ones((200, 100), np.float32)
    heavy_below[:150] = 0.5
    image = ink.place(heavy_below, MASS, 28).astype(float)
    top, bottom, left, right = box_of(image)
    assert (bottom - top, right - left) == (20, 10)
    for axis in (0, 1):
        centre = (image.sum(1 - axis) @ (np.arange(28) + 0.5)) / image.sum()
        assert 14 <= centre < 15


def test_ink_with_its_mass_on_one_side_stays_in_the_frame():
    heavy_below = np.full((200, 200), 0.01, np.float32)
    heavy_below[-3:] = 1
    assert box_of(ink.place(heavy_below, Placement(28, "mass"), 28)) == (0, 28, 0, 28)


def test_thin_strokes_get_the_data_sets_width_and_wide_ones_stay():
    thin, wide = np.zeros((2, 400, 400), np.float32)
    cv2.line(thin, (0, 0), (399, 399), 1.0, 3)
    cv2.line(wide, (0, 0), (399, 399), 1.0, 60)
    placement = Placement(28, "box", stroke=2.0)
    assert ink.stroke_width(ink.place(thin, BOX, 28) / 255) < 1.2
    assert ink.stroke_width(ink.place(thin, placement, 28) / 255) == pytest.approx(2, abs=0.5)
    assert np.array_equal(ink.place(wide, placement, 28), ink.place(wide, BOX, 28))


def test_a_photo_is_cropped_in_its_middle():
    photo = np.zeros((60, 100, 3), np.uint8)
    photo[:, 20:80] = (250, 0, 0)  # the square in the middle is red
    image = ink.prepare(photo, DATASETS["cifar10"].preparation)
    assert image.shape == (3, 32, 32) and image.dtype == np.uint8
    assert (image[0] == 250).all() and not image[1:].any()
    assert ink.prepare(photo[:1, :1], DATASETS["cifar10"].preparation).shape == (3, 32, 32)


@pytest.mark.few(2)
@pytest.mark.parametrize("size", [28, 75, 300])
@pytest.mark.parametrize("inverted", [False, True])
def test_a_data_sets_own_image_comes_back(size, inverted):
    info = DATASETS["digits"]
    images = load_images("digits", "nowhere", train=False).images[:25, 0].numpy()
    differences = []
    for image in images:
        picture = drawn.picture(image, size, GENERATOR, inverted, quality=60)
        back = ink.prepare(picture, info.preparation)[0]
        centred = ink.place(ink.find_ink(image, "no", on_paper=False), info.placement, 28)
        differences.append(np.abs(back.astype(float) - centred).mean())
    assert np.median(differences) < 15  # grey levels of 255


def test_a_garment_is_no_page():
    # An even gradient over most of the frame is shading on a page, but cloth in a photo of clothes.
    shirt = np.full((100, 100, 3), 255, np.uint8)
    shirt[5:95, 5:95] = np.linspace(40, 140, 90)[None, :, None]
    image = ink.prepare(shirt, DATASETS["fashion-mnist"].preparation)[0]
    assert (image[3:25, 3:25] > 80).all()


@pytest.mark.filterwarnings("error")  # such as a division by zero
@pytest.mark.parametrize("name", ["kmnist", "mnist", "fashion-mnist", "cifar10"])
def test_any_picture_gives_an_image_or_is_blank(name):
    generator, info, images = np.random.default_rng(0), DATASETS[name], 0
    for number in range(300):
        height, width = np.exp(generator.uniform(0, np.log(200), 2)).astype(int)
        level, other = generator.integers(0, 256, 2)
        grey = np.full((height, width), level)
        if number % 4 == 0:
            grey = generator.integers(0, 256, (height, width))
        elif number % 4 == 1:
            grey[generator.integers(height) :, generator.integers(width) :] = other
        elif number % 4 == 2:
            grey[generator.integers(height), generator.integers(width)] = other
        else:
            grey = np.linspace(level, other, height * width).reshape(height, width)
        picture = grey.astype(np.uint8)[..., None].repeat(3, axis=2)
        try:
            image = ink.prepare(picture, info.preparation, ("auto", "yes", "no")[number % 3])
        except PictureError:
            continue
        images += 1
        assert image.shape == (info.channels, info.image_size, info.image_size) and image.dtype == np.uint8
        assert image.max() == 255 or name == "cifar10"
    assert images > 60
