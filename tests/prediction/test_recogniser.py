"""From picture files and arrays to answers, with a network that has learned the digits."""

import io
import itertools
import json
import os
import re
import threading
import tracemalloc
import warnings
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import cv2
import drawn
import made_up
import numpy as np
import odd
import pytest
import torch
from conftest import ROOT
from PIL import Image

from neural_lib import checkpoint, prediction
from neural_lib.data import custom
from neural_lib.data.catalog import DATASETS
from neural_lib.data.images import load_images
from neural_lib.data.page import Place
from neural_lib.data.pictures import PictureError
from neural_lib.prediction import recogniser as module
from neural_lib.prediction.recogniser import THUMBNAIL, Answer, Recogniser, Source, convert
from neural_lib.system.errors import UserError

README = (ROOT / "README.md").read_text(encoding="utf-8")
COUNT = 100  # of the digits' 297 test images


@pytest.fixture(scope="module")
def recogniser(digits_model) -> Recogniser:
    return Recogniser(checkpoint.load(digits_model), torch.device("cpu"))


@pytest.fixture(scope="module")
def digits() -> tuple[list[np.ndarray], list[int]]:
    images, labels = load_images("digits", "nowhere", train=False)[:]
    return list(images[:COUNT, 0].numpy()), labels[:COUNT].tolist()


@pytest.fixture
def seven(tmp_path) -> Path:
    """The file of a picture of a seven, dark on light."""
    picture = np.full((300, 400), 255, np.uint8)
    cv2.polylines(picture, [np.array([(120, 50), (280, 50), (180, 260)])], False, 0, 20)
    return write(tmp_path, picture, "seven.png")


def write(folder: Path, image: np.ndarray, name: str) -> Path:
    cv2.imwrite(str(folder / name), image)
    return folder / name


# --- Recogniser.read ---


def test_the_public_api(digits_model, seven):
    reader = prediction.Recogniser.load(digits_model)
    answer = reader.read(str(seven))
    assert isinstance(answer, Answer) and answer.label == "7" and 0.1 < answer.probability <= 1
    assert answer.path == seven and answer.seen.shape == (28, 28) and answer.seen.dtype == np.uint8
    assert len(answer.top) == 3 and answer.top[0] == (answer.label, answer.probability, 7, "")
    probabilities = [each.probability for each in answer.top]
    assert probabilities == sorted(probabilities, reverse=True)
    assert prediction.PictureError is PictureError
    with pytest.raises(AttributeError, match="has no attribute 'Recognizer'"):
        prediction.Recognizer  # noqa: B018


def test_an_answer_is_sure_from_a_probability_that_grows_as_classes_get_fewer(digits_model, seven, monkeypatch):
    assert prediction.default_min_probability(2) == pytest.approx(0.6)  # of two the top one always has a half
    for given, probability, is_sure in ((None, 0.53, True), (None, 0.51, False), (0.0, 0.2, True), (0.6, 0.53, False)):
        reader = Recogniser.load(digits_model, "cpu", given)
        answers = torch.full((1, 10), (1 - probability) / 9)
        answers[0, 7] = probability
        monkeypatch.setattr(reader, "answers_of", lambda images, answers=answers: (answers, torch.tensor([False])))
        assert reader.read(seven).is_sure is is_sure


def test_arrays_give_the_same_answer_as_the_file(recogniser, seven):
    by_file = recogniser.read(seven)
    grey = cv2.imread(str(seven), cv2.IMREAD_GRAYSCALE)
    for array in (grey, cv2.cvtColor(grey, cv2.COLOR_GRAY2RGB), grey.T.copy().T):
        answer = recogniser.read(array)
        assert answer.path is None and answer.top == by_file.top
        assert np.array_equal(answer.seen, by_file.seen)
        assert answer != by_file  # each equals itself only


def test_uploads_give_the_same_answer_as_the_file(recogniser, seven):
    by_file, content = recogniser.read(seven), seven.read_bytes()
    tensor = torch.from_numpy(cv2.imread(str(seven), cv2.IMREAD_GRAYSCALE))[None]  # (1, H, W)
    with open(seven, "rb") as file, Image.open(seven) as image:
        uploads = [content, file, io.BytesIO(content), image, tensor, tensor / 255]
        for answer in (*map(recogniser.read, uploads), *recogniser.read(uploads)):
            assert answer.path is None and np.array_equal(answer.seen, by_file.seen)
            for one, other in zip(answer.top, by_file.top, strict=True):  # a batch may be summed in another order
                assert one == other._replace(probability=pytest.approx(other.probability, abs=1e-6))
        assert not file.closed


def test_a_page_of_bytes_is_chosen_and_its_boxes_fit_it(recogniser, seven, tmp_path):
    sheet = np.full((1200, 900), 255, np.uint8)  # read reduced
    sheet[100:400, 100:500] = cv2.imread(str(seven), cv2.IMREAD_GRAYSCALE)
    Image.new("L", (60, 60), 255).save(tmp_path / "p.tif", save_all=True, append_images=[Image.fromarray(sheet)])
    (by_file,) = recogniser.read_page(tmp_path / "p.tif", page=2)
    (by_bytes,) = recogniser.read_page((tmp_path / "p.tif").read_bytes(), page=2)
    (by_image,) = recogniser.read_page(Image.fromarray(sheet))
    assert by_file.label == by_bytes.label == by_image.label == "7"
    assert by_file.box == by_bytes.box == by_image.box == pytest.approx((210, 140, 180, 230), abs=10)


def test_the_web_service_of_the_readme_answers_uploads(digits_model, seven, monkeypatch):
    for package in ("fastapi", "python_multipart"):
        pytest.importorskip(package)
    testclient = pytest.importorskip("fastapi.testclient", exc_type=(ImportError, RuntimeError))  # needs httpx

    (code,) = (block for block in re.findall(r"```python\n(.*?)```", README, re.DOTALL) if "fastapi" in block)
    monkeypatch.chdir(digits_model.parents[1])
    exec(code.replace("output/model.pth", str(digits_model.relative_to(Path.cwd()))), service := {})
    client = testclient.TestClient(service["app"])
    done = client.post("/read", files={"picture": seven.read_bytes()})
    assert done.status_code == 200 and (done.json()["label"], done.json()["path"]) == ("7", None)
    refused = client.post("/read", files={"picture": b"no picture"})
    assert refused.status_code == 422 and refused.json()["detail"].startswith("the picture: is not a PNG, ")


def test_threads_that_read_at_once_get_the_answers_of_one(recogniser, digits):
    letters = [picture for _, picture in itertools.islice(odd.pictures(1), 6)]
    pictures = [picture for pair in zip(digits[0][:6], letters, strict=True) for picture in pair]
    files = [cv2.imencode(".png", picture)[1].tobytes() for picture in pictures]
    alone, filters = [recogniser.read(file) for file in files], list(warnings.filters)
    assert 6 < sum(answer.is_sure for answer in alone) < 12  # some are unlike the training images
    barrier = threading.Barrier(4)

    def wait_for_the_others(*_) -> None:
        barrier.wait(60)

    hook = recogniser.model.register_forward_pre_hook(wait_for_the_others)  # all threads are in the network at once
    try:
        with ThreadPoolExecutor(4) as pool:
            together = list(pool.map(recogniser.read, files))
    finally:
        hook.remove()
    for one, other in zip(alone, together, strict=True):
        assert one.top == other.top and one.is_sure == other.is_sure and np.array_equal(one.seen, other.seen)
    assert warnings.filters == filters


def test_a_list_gives_a_list_in_its_order(recogniser, seven, digits):
    image = digits[0][0]
    answers = recogniser.read([seven, image, str(seven)], top=1)
    assert [answer.path for answer in answers] == [seven, None, seven]
    assert [answer.label for answer in answers] == ["7", recogniser.read(image).label, "7"]
    assert [len(answer.top) for answer in answers] == [1, 1, 1]
    assert recogniser.read((seven,))[0].label == "7" and recogniser.read([]) == []


def test_the_error_about_a_file_names_it(recogniser, seven, tmp_path):
    (tmp_path / "text.png").write_text("not a picture")
    blank = write(tmp_path, np.full((50, 50), 255, np.uint8), "blank.png")
    for path, reason in (
        (tmp_path / "nowhere.png", "No such file"), (tmp_path / "text.png", "is not a PNG"), (blank, "no ink found"),
    ):  # fmt: skip
        for given in (path, [seven, str(path)]):
            with pytest.raises(PictureError) as caught:
                recogniser.read(given)
            assert str(caught.value).startswith(f"{path}: ") and reason in str(caught.value)


def test_the_error_about_an_array_gives_its_place(recogniser, seven):
    blank = np.full((448, 448, 3), 255, np.uint8)
    with pytest.raises(PictureError, match="^the picture: no ink found$"):
        recogniser.read(blank, invert="yes")
    with pytest.raises(PictureError, match="^picture 3: no ink found$"):
        recogniser.read([seven, seven, blank])
    for picture, reason in (
        (b"seven.png", "is not a PNG, "), (io.BytesIO(), "is empty"), (torch.zeros(9, 9), "a tensor must be "),
        (Image.fromarray(blank), "no ink found"),
    ):  # fmt: skip
        with pytest.raises(PictureError, match=f"^picture 3: {reason}"):
            recogniser.read([seven, seven, picture], invert="yes")


@pytest.mark.parametrize("options, message", [
    ({"invert": "maybe"}, "^invert must be one of auto, yes, no, not 'maybe'$"),
    ({"top": 0}, "^top must be at least 1, not 0$"),
])  # fmt: skip
def test_an_argument_out_of_range_is_a_value_error(recogniser, seven, options, message):
    with pytest.raises(ValueError, match=message):
        recogniser.read(seven, **options)


@pytest.mark.parametrize("picture", [None, [7], [["seven.png"]]], ids=repr)
def test_what_is_no_picture_is_a_type_error(recogniser, picture):
    with pytest.raises(TypeError):
        recogniser.read(picture)


def test_invert_decides_what_is_ink(recogniser):
    grey = np.full((300, 400), 128, np.uint8)
    cv2.line(grey, (80, 50), (80, 250), 0, 20)  # dark
    cv2.polylines(grey, [np.array([(160, 50), (320, 50), (220, 260)])], False, 255, 20)  # light
    assert (recogniser.read(grey, invert="yes").label, recogniser.read(grey, invert="no").label) == ("1", "7")


def test_a_model_file_that_cannot_be_loaded_is_refused(tmp_path):
    path = tmp_path / "nowhere.pth"
    with pytest.raises(UserError, match=f"^{re.escape(str(path))}: can't be read"):  # no option of a command line
        Recogniser.load(path)


# --- accuracy on pictures as people make them ---


def accuracy_of(recogniser: Recogniser, pictures: list[np.ndarray], labels: list[int]) -> float:
    answers = recogniser.read(pictures, top=1)
    return sum(answer.top[0].index == label for answer, label in zip(answers, labels, strict=True)) / len(labels)


@pytest.mark.few(1)
@pytest.mark.parametrize("size, inverted, how", [
    (30, False, {"quality": 50}),
    (90, True, {"quality": 50}),
    (160, True, {"quality": 60, "shade": 90.0, "noise": 5.0}),
])  # fmt: skip
def test_pictures_of_digits_are_read_about_as_well_as_the_digits(recogniser, digits, size, inverted, how):
    images, labels = digits
    predictions = recogniser.probabilities(torch.from_numpy(np.stack(images))[:, None]).argmax(1)
    originals = (predictions.numpy() == labels).mean()
    generator = np.random.default_rng(size)
    pictures = [drawn.picture(image, size, generator, inverted, **how) for image in images]
    assert originals > 0.93
    assert accuracy_of(recogniser, pictures, labels) > originals - 0.03


@pytest.mark.parametrize("inverted", [False, True])
def test_a_picture_that_was_cut_to_the_character_is_read_too(recogniser, digits, inverted):
    pictures, labels = [], []
    for image, label in zip(*digits, strict=True):
        if label == 1:  # some of these are nothing but ink when they are cut out
            continue
        rows, columns = (image > 50).any(1).nonzero()[0], (image > 50).any(0).nonzero()[0]
        cut = cv2.resize(image[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1], None, fx=10, fy=10)
        pictures.append(cv2.cvtColor(255 - cut if inverted else cut, cv2.COLOR_GRAY2RGB))
        labels.append(label)
    assert accuracy_of(recogniser, pictures, labels) > 0.9


def test_a_thin_pen_is_read_too(recogniser, digits):
    images, labels = (part[:50] for part in digits)
    pictures = [drawn.skeleton(image, 120, width=2) for image in images]
    assert accuracy_of(recogniser, pictures, labels) > 0.8


# --- Recogniser.read_page ---


def cut_out(image: np.ndarray, longest: int, pad: int) -> np.ndarray:
    """A digit's ink alone, dark on light, `longest` pixels high or wide, with `pad` pixels around it."""
    rows, columns = (image > 50).any(1).nonzero()[0], (image > 50).any(0).nonzero()[0]
    ink = image[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    scale = longest / max(ink.shape)
    ink = cv2.resize(ink, None, fx=scale, fy=scale, interpolation=cv2.INTER_CUBIC)
    return 255 - cv2.copyMakeBorder(ink, pad, pad, pad, pad, cv2.BORDER_CONSTANT, value=0)


@pytest.mark.few(1)
@pytest.mark.parametrize("longest, pad", [(100, 12), (60, 6), (100, 120), (300, 20), (900, 60), (300, 400), (700, 700)])
def test_a_picture_of_one_character_is_read_as_well_as_with_single(recogniser, digits, longest, pad):
    count = 40 if longest + pad < 200 else 12
    images, labels = (part[:count] for part in digits)
    alone = as_page = 0
    for image, label in zip(images, labels, strict=True):
        picture = cut_out(image, longest, pad)
        answers = recogniser.read_page(picture)
        alone += recogniser.read(picture).label == str(label)
        as_page += [answer.label for answer in answers] == [str(label)]
    assert as_page >= alone - count // 12


@pytest.mark.parametrize("pen", [4, 8, 16, 30])
def test_a_lone_one_is_no_ruled_line(recogniser, pen):
    picture = np.full((400, 300), 235, np.uint8)
    cv2.line(picture, (150, 40), (150, 350), 30, pen)
    (answer,) = recogniser.read_page(picture)
    assert answer.label == "1"


def test_a_page_of_a_file_is_chosen_by_its_number(recogniser, seven, tmp_path):
    first, second = (Image.fromarray(cut_out(255 - cv2.imread(str(seven), 0), 200, pad)) for pad in (100, 150))
    first.save(tmp_path / "p.tif", save_all=True, append_images=[second])
    boxes = [recogniser.read_page(tmp_path / "p.tif", page=page)[0].box for page in (1, 2)]
    assert np.subtract(boxes[1][:2], boxes[0][:2]).tolist() == pytest.approx([50, 50], abs=2)
    with pytest.raises(PictureError, match=r"p.tif\[3\]: has no page 3$"):
        recogniser.read_page(tmp_path / "p.tif", page=3)
    for wrong in ({"page": 0}, {"page": -1}, {"order": "circles"}, {"top": 0}):
        with pytest.raises(ValueError, match="must be"):
            recogniser.read_page(seven, **wrong)


def test_the_box_is_that_of_the_picture_as_it_is_displayed(recogniser, tmp_path):
    picture = np.full((3000, 2000), 230, np.uint8)  # read reduced
    cv2.polylines(picture, [np.array([(400, 300), (1000, 300), (600, 1200)])], False, 0, 80)
    exif = Image.Exif()
    exif[0x0112] = 6  # a quarter turn clockwise
    Image.fromarray(picture).rotate(90, expand=True).save(tmp_path / "p.jpg", exif=exif)
    for given in (picture, tmp_path / "p.jpg"):
        (answer,) = recogniser.read_page(given)
        assert answer.label == "7" and answer.box == pytest.approx((360, 260, 680, 980), abs=20)


def test_answers_print_on_a_line(recogniser, seven):
    assert len(repr(recogniser.read(seven))) < 400


# --- Recogniser.read_files ---


def test_pictures_are_answered_in_their_order_over_batches(recogniser, digits, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "BATCH_SIZE", 10)
    files = [write(tmp_path, 255 - image, f"{number}.png") for number, image in enumerate(digits[0][:25])]
    files[3:3] = [write(tmp_path, np.full((50, 50), 255, np.uint8), "blank.png"), tmp_path / "nowhere.png"]
    results = list(recogniser.read_files(files, "auto", None, 3))
    assert len(results) == len(files)
    assert (results[3].source, results[3].reason) == (Source(files[3]), "no ink found") and not results[3].answers
    assert results[4].source.path == files[4] and "No such file" in results[4].reason
    for path, result in zip(files[:3] + files[5:], results[:3] + results[5:], strict=True):
        (answer,), alone = result.answers, recogniser.read(path)
        assert answer.path == alone.path == path and len(answer.top) == 3 and np.array_equal(answer.seen, alone.seen)
        assert answer.probability == pytest.approx(alone.probability, abs=1e-5)


def test_a_large_picture_is_kept_reduced(recogniser, seven, digits):
    large, small = recogniser.read_files([seven, write(seven.parent, digits[0][0], "small.png")], "auto", None, 3)
    assert large.picture.shape == (round(300 * THUMBNAIL / 400), THUMBNAIL, 3) and large.picture.dtype == np.uint8
    assert small.picture.shape == (28, 28, 3)


def test_a_batch_in_which_no_file_can_be_read(recogniser, tmp_path):
    results = list(recogniser.read_files([tmp_path / "a", tmp_path / "b"], "auto", None, 3))
    assert [list(result.answers) for result in results] == [[], []]


@pytest.mark.slow
def test_memory_does_not_grow_with_the_number_of_files(recogniser, seven, monkeypatch):
    monkeypatch.setattr(module, "BATCH_SIZE", 10)

    def peak(files: int) -> int:
        tracemalloc.start()
        for _ in recogniser.read_files([seven] * files, "auto", None, 3):
            pass
        most = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return most

    peak(5)  # what is allocated once
    assert peak(40) < 1.1 * peak(20)


# --- probabilities and answers ---


def test_probabilities_are_those_of_the_network_at_its_temperature(recogniser, digits):
    images = torch.from_numpy(np.stack(digits[0][:5]))[:, None]
    probabilities = recogniser.probabilities(images)
    assert probabilities.shape == (5, 10) and probabilities.sum(1).tolist() == pytest.approx([1] * 5)
    saved = recogniser.saved
    inputs = (images / 255 - saved.mean[0]) / saved.std[0]
    with torch.inference_mode():
        log_probs = saved.build_model()(inputs)
    expected = (log_probs / saved.calibration["temperature"]).softmax(dim=1)
    assert torch.allclose(expected, probabilities, atol=1e-5) and not torch.allclose(log_probs.exp(), probabilities)


PROBABILITIES = torch.tensor([0.01, 0.05, 0.7, 0.2, 0.02, 0.02, 0.0, 0.0, 0.0, 0.0])


@pytest.mark.parametrize("top", [1, 3, 10, 99])
def test_the_most_probable_classes_come_first(recogniser, top):
    candidates = recogniser.candidates(PROBABILITIES, top)
    assert [each.index for each in candidates] == [2, 3, 1, 4, 5, 0, 6, 7, 8, 9][:top]  # equals in their order
    assert [each.label for each in candidates] == [str(each.index) for each in candidates]
    assert [each.probability for each in candidates] == PROBABILITIES.sort(descending=True).values[:top].tolist()


def test_an_answer_as_a_dictionary_has_its_place():
    reader = Recogniser(made_up.make_checkpoint("kmnist"), torch.device("cpu"))
    top = reader.candidates(torch.tensor([0.0, 0.125, 0.5, 0.25, *[0.0] * 6]), 1)
    outside = Answer(top, np.zeros((28, 28), np.uint8), box=(1, 2, 3, 4))
    answer = replace(outside, place=Place(7, 2, 3))
    assert answer.to_dict() == outside.to_dict() | {"number": 7, "row": 2, "column": 3}
    assert json.loads(json.dumps(answer.to_dict()))["number"] == 7
    assert not {"number", "row", "column"} & outside.to_dict().keys()


def test_an_answer_as_a_dictionary():
    reader = Recogniser(made_up.make_checkpoint("kmnist"), torch.device("cpu"))
    top = reader.candidates(torch.tensor([0.0, 0.125, 0.5, 0.25, *[0.0] * 6]), 2)
    answer = Answer(top, np.zeros((28, 28), np.uint8), Path("a/ü.png"))
    su, tsu = (
        {"label": "su", "index": 2, "glyph": "す", "probability": 0.5},
        {"label": "tsu", "index": 3, "glyph": "つ", "probability": 0.25},
    )
    assert json.loads(json.dumps(answer.to_dict())) == {
        "path": os.path.join("a", "ü.png"), **su, "sure": True, "top": [su, tsu],
    }  # fmt: skip
    assert Answer(top, answer.seen).to_dict() == answer.to_dict() | {"path": None}  # of an array


def test_a_network_for_photos_takes_pictures_as_they_are():
    reader = Recogniser(made_up.make_checkpoint("cifar10"), torch.device("cpu"))
    answer = reader.read(np.full((60, 80, 3), (250, 0, 0), np.uint8))  # which has no ink
    assert answer.seen.shape == (32, 32, 3) and (answer.seen == (250, 0, 0)).all()
    assert "glyph" not in answer.to_dict()


def test_a_large_photo_is_reduced_as_in_training(tmp_path, monkeypatch):
    monkeypatch.setitem(DATASETS, "cifar10", replace(DATASETS["cifar10"], image_size=96))
    reader = Recogniser(made_up.make_checkpoint("cifar10"), torch.device("cpu"))
    pixels = np.random.default_rng(0).integers(0, 256, (90, 120, 3), dtype=np.uint8)
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        path = write(tmp_path / name, cv2.resize(pixels, (1200, 900)), "1.jpg")
    trained_on = custom.load(str(tmp_path), reader.saved.preparation, use_cache=False).images[0]
    assert np.array_equal(reader.read(path).seen, trained_on.transpose(1, 2, 0))


def test_large_images_are_answered_in_small_batches(recogniser, digits, monkeypatch):
    sizes, answers_of = [], recogniser.answers_of
    monkeypatch.setattr(recogniser, "answers_of", lambda batch: sizes.append(len(batch)) or answers_of(batch))
    monkeypatch.setattr(module, "eval_batch_size", lambda size, device: 8 if size == 28 else 0)
    assert len(recogniser.read(digits[0][:20])) == 20 and sizes == [8, 8, 4]


# --- convert ---


def test_images_that_fit_are_left_as_they_are():
    images = torch.randint(0, 256, (3, 1, 28, 28), dtype=torch.uint8)
    converted, changes = convert(images, 1, 28)
    assert converted is images and changes == []


@pytest.mark.parametrize("given, wanted, expected", [
    ((3, 32), (1, 28), ["colour to grey", "32x32 to 28x28 pixels"]),
    ((1, 28), (3, 28), ["grey to three equal channels"]),
    ((1, 28), (1, 32), ["28x28 to 32x32 pixels"]),
])  # fmt: skip
def test_channels_and_size_are_converted(given, wanted, expected):
    (channels, size), (wanted_channels, wanted_size) = given, wanted
    images = torch.full((2, channels, size, size), 200, dtype=torch.uint8)
    converted, changes = convert(images, wanted_channels, wanted_size)
    assert converted.shape == (2, wanted_channels, wanted_size, wanted_size)
    assert converted.dtype == torch.uint8 and changes == expected
    assert converted.float().sub(200).abs().max() <= 1  # an even colour stays the same, but for rounding


def test_grey_is_the_brightness_that_the_eye_sees():
    red, green, blue = (255 * torch.eye(3, dtype=torch.uint8)).view(3, 3, 1, 1)
    converted, _ = convert(torch.stack([red, green, blue]), 1, 1)
    assert converted.flatten().tolist() == pytest.approx([255 * 0.299, 255 * 0.587, 255 * 0.114], abs=1)


# --- characters that touch ---


@pytest.mark.few(7)
@pytest.mark.parametrize("order", ["rows", "columns"])
@pytest.mark.parametrize("before", [[60], [60, 170, 280]], ids=len)
@pytest.mark.parametrize("pair, half, are_two, is_sure", [
    (0.8, 0.9, True, True), (0.3, 0.9, True, True),
    (0.8, 0.3, False, False), (0.9, 0.8, False, False), (0.3, 0.4, False, False),
])  # fmt: skip
def test_two_that_touch_are_read_apart_or_not_sure(
    recogniser, monkeypatch, order, before, pair, half, are_two, is_sure
):
    picture, x = np.full((160, 720), 235, np.uint8), before[-1] + 110
    for each in (*before, x, x + 80, x + 190):
        diamond = np.array([(each - 36, 80), (each, 40), (each + 36, 80), (each, 120)])
        cv2.polylines(picture, [diamond], True, 40, 9)
    batches = []

    def answers_of(images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        # `half` is the probability of a diamond in the answer, and `pair` that of several
        batches.append(len(images))
        lengths = torch.stack([(images[:, 0] > 50).any(dim).sum(1) for dim in (1, 2)])
        highest = torch.where(lengths.amax(0) > 1.5 * lengths.amin(0), pair, half)[:, None]
        return torch.cat([highest, (1 - highest).expand(-1, 9) / 9], 1), torch.zeros(len(images), dtype=torch.bool)

    monkeypatch.setattr(recogniser, "answers_of", answers_of)
    answers = recogniser.read_page(picture if order == "rows" else picture.T, order=order)
    assert len(answers) == len(before) + 2 + are_two
    touching = answers[len(before) : len(before) + 1 + are_two]
    assert all(answer.to_dict()["sure"] is is_sure for answer in touching)
    lengths = [answer.box[2 if order == "rows" else 3] for answer in touching]
    assert lengths == pytest.approx([82, 82] if are_two else [163], abs=5)
    assert batches[0] == len(before) + 4  # together, the pair and its halves
    line = [(answer.place.row, answer.place.column) for answer in answers]
    assert line == [(1, n) if order == "rows" else (n, 1) for n in range(1, len(answers) + 1)]
    assert [answer.place.number for answer in answers] == list(range(1, len(answers) + 1))


# --- known boxes ---


def sheet_of(digits, labels: list[int | None], longest: int, side: int) -> tuple[np.ndarray, np.ndarray]:
    """A level page with a digit of each label in boxes, four in a row, empty for None; and the boxes (N, 4)."""
    images, truths = digits
    page, boxes = np.full((side * (1 + -(-len(labels) // 4)), side * 5), 240, np.uint8), []
    for number, label in enumerate(labels):
        x, y = side // 2 + number % 4 * side, side // 2 + number // 4 * side
        boxes.append((x, y, side, side))
        cv2.rectangle(page, (x, y), (x + side, y + side), 150, max(1, side // 50))
        if label is not None:
            ink = cut_out(images[truths.index(label)], longest, 0)
            top, left = y + (side - ink.shape[0]) // 2, x + (side - ink.shape[1]) // 2
            part = page[top : top + ink.shape[0], left : left + ink.shape[1]]
            np.minimum(part, ink, out=part)
    return page, np.array(boxes)


@pytest.mark.parametrize("side", [12, 60, 400])  # pixels; a box of 12 is on a page smaller than SMALLEST_PAGE
def test_an_answer_has_the_number_of_its_known_box(recogniser, digits, side):
    labels = [None, 3, 0, None, None, None, None, None, 6, None]
    page, boxes = sheet_of(digits, labels, int(0.6 * side), side)
    answers = recogniser.read_page(page, boxes=boxes)
    assert [answer.place for answer in answers] == [(2, 1, 2), (3, 1, 3), (9, 3, 1)]
    for answer, at in zip(answers, (1, 2, 8), strict=True):
        left, top, width, height = answer.box
        x, y, _, _ = boxes[at]
        assert x <= left and left + width <= x + side and y <= top and top + height <= y + side
    if side > 12:
        assert [answer.label for answer in answers] == ["3", "0", "6"]
        assert answers[0].to_dict()["number"] == 2
    listed = recogniser.read_page(page, boxes=boxes.tolist())
    assert [answer.place for answer in listed] == [answer.place for answer in answers]


def test_a_picture_with_known_boxes_is_read_once_at_its_resolution(recogniser, digits, monkeypatch):
    page, boxes = sheet_of(digits, [3, None, 0, 6], 60, 400)  # small in large boxes, on a page of 2,000 pixels
    shapes, find = [], module.find_characters
    monkeypatch.setattr(module, "find_characters", lambda grey, *rest: shapes.append(grey.shape) or find(grey, *rest))
    answers = recogniser.read_page(page, boxes=boxes)
    assert shapes == [page.shape] and [answer.place.number for answer in answers] == [1, 3, 4]


def test_ink_of_known_boxes_is_neither_cut_nor_read_as_one(recogniser, monkeypatch):
    monkeypatch.setattr(recogniser, "min_probability", 1.1)  # nothing is sure
    page = np.full((200, 600), 240, np.uint8)
    boxes = np.array([(10 + 140 * number, 20, 130, 130) for number in range(4)])
    for number in (0, 1, 3):
        x = boxes[number][0]
        cv2.line(page, (x + 60, 40), (x + 60, 130), 30, 8)
    cv2.line(page, (boxes[1][0] + 10, 90), (boxes[1][0] + 120, 90), 30, 8)  # three times as long as the rest
    answers = recogniser.read_page(page, boxes=boxes)
    assert [answer.place.number for answer in answers] == [1, 2, 4]
    alone = recogniser.read_page(page, boxes=boxes[3:])
    assert [answer.place for answer in alone] == [(1, 1, 1)] and alone[0].box is not None


def test_the_answer_to_a_known_box_that_is_crossed_out_is_not_sure(recogniser, digits, monkeypatch):
    page, boxes = sheet_of(digits, [3, 0, 3, 0], 60, 100)
    before = [each.is_sure for each in recogniser.read_page(page, boxes=boxes)]
    for number in (1, 2):
        x, y, side, _ = boxes[number].tolist()
        cv2.line(page, (x, y + side), (x + side, y), 30, 5)
    monkeypatch.setattr(recogniser, "min_probability", 0.0)  # sure unless it is unlike the training images
    monkeypatch.setattr(recogniser.calibration, "is_unlike", lambda outputs: torch.zeros(len(outputs.log_probs)) > 0)
    crossed = [each.is_sure for each in recogniser.read_page(page, boxes=boxes)]
    assert before == [True] * 4 and crossed == [True, False, False, True]


def test_a_reading_has_the_printed_boxes_in_pixels_of_the_picture(recogniser, digits):
    page, boxes = sheet_of(digits, [3, None, 0, 6, None, 3, None, None], 120, 400)  # is reduced before boxes are found
    reading = recogniser.reading_of(page)
    assert np.abs(np.array(reading.boxes) - boxes).max() < 20
    assert [each.place.number for each in reading.answers] == [1, 3, 4, 6]
    assert recogniser.reading_of(np.full((300, 300), 240, np.uint8)).reason == "no ink found"
    assert len(recogniser.reading_of(sheet_of(digits, [None] * 8, 1, 100)[0]).boxes) == 8  # all of them empty


def test_an_answer_has_the_number_of_its_printed_box(recogniser, digits):
    labels = [None, 3, 0, None, None, None, None, None, 6, None, 1, 2]
    page, _ = sheet_of(digits, labels, 60, 120)
    page = np.vstack([np.full((150, page.shape[1]), 240, np.uint8), page])
    cv2.putText(page, "Ann", (100, 100), cv2.FONT_HERSHEY_SIMPLEX, 1.5, 30, 4)
    answers = recogniser.read_page(page)
    inside = [answer for answer in answers if answer.place]
    assert len(answers) > len(inside) and answers[-5:] == inside
    assert [(answer.label, *answer.place) for answer in inside] == [
        ("3", 2, 1, 2), ("0", 3, 1, 3), ("6", 9, 3, 1), ("1", 11, 3, 3), ("2", 12, 3, 4)
    ]  # fmt: skip


@pytest.mark.parametrize("write", [False, True])
def test_empty_known_boxes_are_no_error(recogniser, digits, write):
    page, boxes = sheet_of(digits, [None] * 6, 60, 100)
    if write:
        cv2.putText(page, "5", (5, 45), cv2.FONT_HERSHEY_SIMPLEX, 1, 0, 3)  # outside of all
    assert recogniser.read_page(page, boxes=boxes) == []
    assert recogniser.read_page(page, boxes=np.zeros((0, 4))) == []
    assert recogniser.read_page(np.full((200, 300), 255, np.uint8), boxes=boxes[:1]) == []


def test_boxes_that_fit_nothing_are_a_value_error(recogniser, seven):
    with pytest.raises(ValueError, match=r"^boxes must be \(N, 4\), not \(4,\)$"):
        recogniser.read_page(seven, boxes=np.arange(4))
    photos = Recogniser(made_up.make_checkpoint("cifar10"), torch.device("cpu"))
    with pytest.raises(ValueError, match="^boxes need a network for written characters$"):
        photos.read_page(seven, boxes=np.zeros((1, 4)))
