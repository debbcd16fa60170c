"""From picture files to answers, with a network that has learned the digits."""

import tracemalloc
from pathlib import Path

import cv2
import drawn
import numpy as np
import pytest
import torch

from neural_lib import checkpoint, ink, own_pictures
from neural_lib.datasets import DATASETS, load_images
from neural_lib.own_pictures import AT_ONCE, NotRecognised, Recognised
from neural_lib.recogniser import Recogniser

INFO = DATASETS["digits"]


@pytest.fixture(scope="module")
def recogniser(digits_model) -> Recogniser:
    return Recogniser(checkpoint.load(digits_model), torch.device("cpu"))


def accuracy_of(recogniser: Recogniser, pictures: list[np.ndarray], labels: list[int]) -> float:
    right = 0
    for picture, label in zip(pictures, labels, strict=True):
        probabilities = own_pictures.read(recogniser, picture, INFO, "auto")[1]
        right += int(np.argmax(probabilities)) == label
    return right / len(labels)


@pytest.fixture(scope="module")
def digits() -> tuple[list[np.ndarray], list[int]]:
    images, labels = load_images("digits", "nowhere", train=False)
    return list(images[:, 0].numpy()), labels.tolist()


@pytest.mark.parametrize("size, inverted, how", [
    (30, False, {"quality": 50}),
    (90, True, {"quality": 50}),
    (160, True, {"quality": 60, "shade": 90.0, "noise": 5.0}),
])  # fmt: skip
def test_pictures_of_digits_are_read_about_as_well_as_the_digits(recogniser, digits, size, inverted, how):
    images, labels = digits
    originals = (
        recogniser.probabilities(torch.from_numpy(np.stack(images))[:, None]).argmax(1).numpy() == labels
    ).mean()
    generator = np.random.default_rng(size)
    pictures = [drawn.picture(image, size, generator, inverted, **how) for image in images]
    assert originals > 0.93
    assert accuracy_of(recogniser, pictures, labels) > originals - 0.03  # 297 digits: 3 points are 9 of them


@pytest.mark.parametrize("inverted", [False, True])
def test_a_picture_that_was_cut_to_the_character_is_read_too(recogniser, digits, inverted):
    pictures = []
    for image in digits[0][:150]:
        rows, columns = (image > 50).any(1).nonzero()[0], (image > 50).any(0).nonzero()[0]
        cut = cv2.resize(image[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1], None, fx=10, fy=10)
        pictures.append(cv2.cvtColor(255 - cut if inverted else cut, cv2.COLOR_GRAY2RGB))
    ones = [index for index, label in enumerate(digits[1][:150]) if label == 1]  # of which some are nothing but ink
    others = [index for index in range(150) if index not in ones]
    assert accuracy_of(recogniser, [pictures[index] for index in others], [digits[1][index] for index in others]) > 0.9


def test_a_thin_pen_is_read_too(recogniser, digits):
    images, labels = digits
    pictures = [drawn.skeleton(image, 200, width=3) for image in images[:150]]
    with_its_width = accuracy_of(recogniser, pictures, labels[:150])
    assert with_its_width > 0.8


def write(folder: Path, image: np.ndarray, name: str) -> Path:
    cv2.imwrite(str(folder / name), image)
    return folder / name


def test_files_are_answered_in_their_order_over_batches(recogniser, digits, tmp_path):
    images, _ = digits
    paths = [write(tmp_path, 255 - image, f"{number}.png") for number, image in enumerate(images[: AT_ONCE + 20])]
    blank = write(tmp_path, np.full((50, 50), 255, np.uint8), "blank.png")
    paths[3:3] = [blank, tmp_path / "nowhere.png"]
    counted = []
    results = list(own_pictures.read_files(recogniser, paths, INFO, "auto", 3, 20, lambda: counted.append(1)))
    assert len(counted) == len(results) == len(paths)
    assert results[3] == NotRecognised(blank, "no ink found")
    assert results[4].path == paths[4] and "No such file" in results[4].reason
    for path, result in zip(paths, results, strict=True):
        if isinstance(result, Recognised):
            assert result.answer.path == path and len(result.answer.labels) == 3
            assert result.thumbnail.shape == (20, 20, 3) and result.seen.shape == (28, 28)
            alone = own_pictures.read(recogniser, cv2.imread(str(path)), INFO, "auto")
            assert np.array_equal(result.seen, alone[0])
            assert result.answer.probabilities[0] == pytest.approx(max(alone[1]), abs=1e-5)


def test_a_batch_without_a_picture_is_no_batch(recogniser, tmp_path):
    results = list(own_pictures.read_files(recogniser, [tmp_path / "a", tmp_path / "b"], INFO, "auto", 3, 20))
    assert [type(result) for result in results] == [NotRecognised] * 2


def test_a_blank_drawing_gets_no_guess(recogniser):
    with pytest.raises(ink.NoInk):
        own_pictures.read(recogniser, np.full((448, 448, 3), 255, np.uint8), INFO, "yes")


def test_probabilities_are_those_of_the_network(recogniser, digits):
    images = torch.from_numpy(np.stack(digits[0][:5]))[:, None]
    probabilities = recogniser.probabilities(images)
    assert probabilities.shape == (5, 10) and probabilities.sum(1).tolist() == pytest.approx([1] * 5)
    saved = recogniser.saved
    inputs = (images / 255 - saved.mean[0]) / saved.std[0]
    with torch.inference_mode():
        assert torch.allclose(saved.build_model()(inputs).exp(), probabilities, atol=1e-5)


def test_images_get_the_networks_channels_and_size(recogniser, monkeypatch):
    prepared = [np.zeros((1, 28, 28), np.uint8)] * 2
    assert recogniser.images(prepared).shape == (2, 1, 28, 28)
    monkeypatch.setattr(
        recogniser, "saved", checkpoint.Checkpoint(**{**vars(recogniser.saved), "mean": [0.5] * 3, "image_size": 32})
    )
    assert recogniser.images(prepared).shape == (2, 3, 32, 32)


def test_memory_does_not_grow_with_the_number_of_files(recogniser, digits, tmp_path, monkeypatch):
    monkeypatch.setattr(own_pictures, "AT_ONCE", 20)
    path = write(tmp_path, 255 - cv2.resize(digits[0][0], (300, 300)), "digit.png")

    def peak(files: int) -> int:
        tracemalloc.start()
        for _ in own_pictures.read_files(recogniser, [path] * files, INFO, "auto", 3, 300):
            pass
        most = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return most

    peak(10)  # what is made once
    assert peak(80) < 1.1 * peak(40)
