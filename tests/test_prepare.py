from dataclasses import replace
from pathlib import Path

import cv2
import drawn
import numpy as np
import pytest

from neural_lib import ink, prepare
from neural_lib.datasets import DATASETS, load_images
from neural_lib.pictures import PictureError
from neural_lib.placement import Placement

GENERATOR = np.random.default_rng(0)
BOX, MASS = Placement(28, "box"), Placement(20, "mass")


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
    image = prepare.placed(bar(height, width), BOX, 28)
    assert image.shape == (28, 28) and image.dtype == np.uint8 and image.max() == 255
    assert box_of(image) == expected


def test_the_centre_of_mass_lies_in_the_pixel_beyond_the_middle():
    heavy_below = np.ones((200, 100), np.float32)
    heavy_below[:150] = 0.5
    image = prepare.placed(heavy_below, MASS, 28).astype(float)
    top, bottom, left, right = box_of(image)
    assert (bottom - top, right - left) == (20, 10)
    for axis in (0, 1):
        centre = (image.sum(1 - axis) @ (np.arange(28) + 0.5)) / image.sum()
        assert 14 <= centre < 15


def test_what_is_all_on_one_side_stays_in_the_frame():
    heavy_below = np.full((200, 200), 0.01, np.float32)
    heavy_below[-3:] = 1
    assert box_of(prepare.placed(heavy_below, Placement(28, "mass"), 28)) == (0, 28, 0, 28)


def test_thin_strokes_get_the_data_sets_width_and_wide_ones_stay():
    thin, wide = np.zeros((2, 400, 400), np.float32)
    cv2.line(thin, (0, 0), (399, 399), 1.0, 3)
    cv2.line(wide, (0, 0), (399, 399), 1.0, 60)
    placement = Placement(28, "box", stroke=2.0)
    assert ink.stroke_width(prepare.placed(thin, BOX, 28) / 255) < 1.2
    assert ink.stroke_width(prepare.placed(thin, placement, 28) / 255) == pytest.approx(2, abs=0.5)
    assert np.array_equal(prepare.placed(wide, placement, 28), prepare.placed(wide, BOX, 28))


def test_a_photo_is_cropped_in_its_middle():
    photo = np.zeros((60, 100, 3), np.uint8)
    photo[:, 20:80] = (250, 0, 0)  # the square in the middle is red
    image = prepare.prepare(photo, DATASETS["cifar10"])
    assert image.shape == (3, 32, 32) and image.dtype == np.uint8
    assert (image[0] == 250).all() and not image[1:].any()
    assert prepare.prepare(photo[:1, :1], DATASETS["cifar10"]).shape == (3, 32, 32)


@pytest.mark.parametrize("size", [28, 75, 300])
@pytest.mark.parametrize("inverted", [False, True])
def test_a_data_sets_own_image_comes_back(size, inverted):
    info = DATASETS["digits"]
    images = load_images("digits", "nowhere", train=False).images[:40, 0].numpy()
    differences = []
    for image in images:
        picture = drawn.picture(image, size, GENERATOR, inverted, quality=60)
        back = prepare.prepare(picture, info)[0]
        centred = prepare.placed(ink.find(image, "no", on_paper=False), info.placement, 28)
        differences.append(np.abs(back.astype(float) - centred).mean())
    assert np.median(differences) < 15  # grey levels of 255


def test_a_picture_file_is_read_and_prepared(tmp_path):
    page = np.full((300, 500, 3), 255, np.uint8)
    page[100:200, 200:220] = 0
    cv2.imwrite(str(tmp_path / "one.png"), page)
    prepared = prepare.from_file(tmp_path / "one.png", DATASETS["digits"], "auto", thumbnail=100)
    assert prepared.path == tmp_path / "one.png" and prepared.image.shape == (1, 28, 28)
    assert prepared.thumbnail.shape == (60, 100, 3)
    cv2.imwrite(str(tmp_path / "blank.png"), page[:90])
    with pytest.raises(PictureError, match="^no ink found$"):
        prepare.from_file(tmp_path / "blank.png", DATASETS["digits"], "auto", thumbnail=100)
    with pytest.raises(PictureError, match="No such file"):
        prepare.from_file(Path("nowhere.png"), DATASETS["digits"], "auto", thumbnail=100)


def test_a_garment_is_no_page():
    # an even gradient over most of the frame: shading for a page, cloth here
    info = replace(DATASETS["fashion-mnist"])
    shirt = np.full((100, 100, 3), 255, np.uint8)
    shirt[5:95, 5:95] = np.linspace(40, 140, 90)[None, :, None]
    image = prepare.prepare(shirt, info)[0]
    assert (image[3:25, 3:25] > 80).all()


@pytest.mark.filterwarnings("error")  # a division by zero would be one
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
            image = prepare.prepare(picture, info, ("auto", "yes", "no")[number % 3])
        except ink.NoInk:
            continue
        images += 1
        assert image.shape == (info.channels, info.image_size, info.image_size) and image.dtype == np.uint8
        assert image.max() == 255 or name == "cifar10"
    assert images > 60
