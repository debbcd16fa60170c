"""Data sets in arrays: NumPy's .npz files and tables of pixels (.csv)."""

import logging
import os
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pytest
import torch

from neural_lib.config import TrainConfig
from neural_lib.data import arrays, custom, ink
from neural_lib.data.catalog import Preparation
from neural_lib.data.custom import Request
from neural_lib.data.images import load_user_images, load_user_test_images
from neural_lib.data.pictures import read_picture
from neural_lib.system import environment
from neural_lib.system.errors import UserError


def picture(*size: int, seed: int = 0) -> np.ndarray:
    """Random pixels, uint8, of this shape."""
    return np.random.default_rng(seed).integers(0, 256, size, dtype=np.uint8)


def load(path: object, *how, **options) -> custom.Collection:
    return custom.load(str(path), Request(*how), **options)


def save(path: Path, **arrays) -> Path:
    np.savez(path, **arrays)
    return path


IMAGES, LABELS = picture(6, 20, 20), np.array([0, 1, 2, 0, 1, 2], np.uint8)
COLOUR = picture(6, 20, 20, 3)


@pytest.mark.parametrize("images, channels", [(IMAGES, 1), (COLOUR, 3), (np.stack([IMAGES] * 3, axis=3), 1)])
@pytest.mark.parametrize("shape", [(6,), (6, 1)])
def test_medmnists_arrays_are_read_as_they_are(tmp_path, images, channels, shape):
    arrays = {f"{part}_images": images for part in ("train", "val", "test")}
    arrays |= {f"{part}_labels": LABELS.reshape(shape) for part in ("train", "val", "test")}
    data = load(save(tmp_path / "m.npz", **arrays, more=np.zeros(3)))
    assert data.preparation == Preparation(20, channels, None) and data.classes == ["0", "1", "2"]
    assert {part: list(each) for part, each in data.indices.items()} == {
        "train": [*range(6)], "val": [*range(6, 12)], "test": [*range(12, 18)],
    }  # fmt: skip
    expected = images.reshape(6, 20, 20, -1)[..., :channels].transpose(0, 3, 1, 2)
    assert np.array_equal(data.images, np.concatenate([expected] * 3))
    assert data.labels.tolist() == LABELS.tolist() * 3 and data.names[13] == "test_images[1]"


@pytest.mark.parametrize("images", [picture(6, 20, 30), picture(6, 90, 90, 3), picture(6, 20, 20)])
@pytest.mark.parametrize("how", [(), (24, "pad"), (28, "crop", True)])
def test_other_arrays_are_prepared_as_pictures(tmp_path, images, how):
    if how[2:] == (True,):
        images = images // 16 + 200  # paper
        images[:, 5:15, 8:11] = 20  # ink
    data = load(save(tmp_path / "m.npz", train_images=images, train_labels=LABELS), *how)
    for index in data.indices["train"]:
        assert np.array_equal(data.images[index], ink.prepare(read_picture(images[index]), data.preparation))
    grey = images.ndim == 3 or how[2:] == (True,)
    assert data.preparation.channels == (1 if grey else 3) and set(data.indices) == {"train"}


KERAS = {"x_train": IMAGES, "y_train": LABELS, "x_test": IMAGES[:4], "y_test": LABELS[:4]}
PARTS = {"train": 6, "test": 4}


@pytest.mark.parametrize("given, sizes, names", [
    (KERAS, PARTS, ("x_train[0]", "x_test[0]")),
    ({key.upper(): array for key, array in KERAS.items()}, PARTS, ("X_TRAIN[0]", "X_TEST[0]")),
    ({"X_train": IMAGES, "y_train": LABELS, "X_valid": IMAGES, "y_valid": LABELS}, {"train": 6, "val": 6},
     ("X_train[0]", "X_valid[0]")),
    ({"testing_x": IMAGES, "testing_y": LABELS, "train_x": IMAGES, "train_y": LABELS}, {"train": 6, "test": 6},
     ("train_x[0]", "testing_x[0]")),
    ({"X": IMAGES, "y": LABELS}, {"train": 6}, ("X[0]",)),
    ({"images": IMAGES, "labels": LABELS}, {"train": 6}, ("images[0]",)),
])  # fmt: skip
def test_the_keys_in_use_are_understood(tmp_path, given, sizes, names):
    data = load(save(tmp_path / "m.npz", **given))
    assert {part: len(indices) for part, indices in data.indices.items()} == sizes
    assert tuple(data.names[indices[0]] for indices in data.indices.values()) == names
    assert np.array_equal(data.images[:6, 0], IMAGES) and data.labels[:6].tolist() == LABELS.tolist()


def logged(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records]


SCALED = ["m.npz: images scaled from 0..1 to 0..255"]
BINARY = IMAGES > 99


@pytest.mark.parametrize("images, expected, text", [
    (IMAGES[..., None], IMAGES, []),
    (IMAGES[:, None], IMAGES, ["m.npz: channels moved last"]),
    (COLOUR, COLOUR, []),
    (COLOUR.transpose(0, 3, 1, 2), COLOUR, ["m.npz: channels moved last"]),
    (COLOUR.transpose(0, 3, 1, 2) / 255, COLOUR, ["m.npz: channels moved last, images scaled from 0..1 to 0..255"]),
    (IMAGES.reshape(6, 400), IMAGES, ["m.npz: rows of 400 pixels to 20x20"]),
    *[((IMAGES / 255).astype(kind), IMAGES, SCALED) for kind in ("float16", "float32", "float64", ">f4")],
    *[(IMAGES.astype(kind), IMAGES, [f"m.npz: images {kind} to uint8"]) for kind in ("int64", "uint16", "float32")],
    *[(BINARY.astype(kind), BINARY * np.uint8(255), SCALED) for kind in ("bool", "uint8", "int32", "float64")],
])  # fmt: skip
@pytest.mark.parametrize("block", [1, arrays.BLOCK])
def test_images_become_levels_of_255_with_channels_last(tmp_path, caplog, monkeypatch, images, expected, text, block):
    caplog.set_level(logging.INFO)
    monkeypatch.setattr(arrays, "BLOCK", block)
    data = load(save(tmp_path / "m.npz", x=images, y=LABELS))
    assert data.preparation.channels == (3 if expected.ndim == 4 else 1)
    assert np.array_equal(data.images, expected.transpose(0, 3, 1, 2) if expected.ndim == 4 else expected[:, None])
    assert logged(caplog) == text


def test_images_of_any_order_and_size_are_prepared_as_pictures(tmp_path):
    images = picture(6, 3, 20, 30)
    data = load(save(tmp_path / "m.npz", x=images, y=LABELS))
    expected = [ink.prepare(read_picture(image.transpose(1, 2, 0)), data.preparation) for image in images]
    assert np.array_equal(data.images, expected)


@pytest.mark.parametrize("scale", [1, 255])
def test_a_part_that_is_black_has_any_scale(tmp_path, scale):
    arrays = {"x_train": IMAGES / scale, "y_train": LABELS, "x_test": IMAGES * 0, "y_test": LABELS}
    assert np.array_equal(load(save(tmp_path / "m.npz", **arrays)).images[:6, 0], IMAGES)


def test_images_that_are_all_dark_are_warned_of(tmp_path, caplog):
    load(save(tmp_path / "m.npz", x=IMAGES // 16 + 1.0, y=LABELS))
    (message,) = logged(caplog)
    assert message.startswith("m.npz: the brightest pixel is 16.0 of 255; if that is white, scale the images")


COLOURS = ["red", "green", "blue"]
FROM_1 = LABELS + 1


@pytest.mark.parametrize("labels, classes, text", [
    (LABELS.astype(float), "012", None),
    (LABELS[:, None].astype(np.float16), "012", None),
    (np.eye(3)[LABELS], "012", "labels one-hot to 3 classes"),
    (np.eye(4, dtype=bool)[LABELS + 1], "123", "labels one-hot to 3 classes"),
    (LABELS + 1, "123", "the classes are called by their labels, 1 to 3"),
    (LABELS.astype(np.uint64) * 50, ["0", "50", "100"], "the classes are called by their labels, 0 to 100"),
    (np.array(["c2", "c10", "é"])[LABELS], ["c2", "c10", "é"], None),
    (np.array(["10", "9", "b"])[LABELS], ["10", "9", "b"], None),
    (np.char.encode(np.array(["c2", "c10", "é"]), "utf-8")[LABELS][:, None], ["c2", "c10", "é"], None),
    (np.array([False, True, True])[LABELS], "01", None),
])  # fmt: skip
def test_a_class_has_the_name_of_its_label(tmp_path, caplog, labels, classes, text):
    caplog.set_level(logging.INFO)
    data = load(save(tmp_path / "m.npz", x=IMAGES, y=labels))
    assert [data.classes[label] for label in data.labels] == [[*classes, *classes[1:]][label] for label in LABELS]
    assert data.labels.dtype == np.int64 and logged(caplog) == ([f"m.npz: {text}"] if text else [])
    order = {"10": ["9", "10", "b"]}.get(classes[0], [*classes])
    assert data.classes == order


@pytest.mark.parametrize("key", ["class_names", "Label_Names", "classes"])
@pytest.mark.parametrize("names", [COLOURS, np.char.encode(COLOURS)])
@pytest.mark.parametrize("labels", [LABELS, FROM_1, np.eye(3)[LABELS], np.array(COLOURS)[LABELS]])
def test_given_class_names_are_used_in_their_order(tmp_path, caplog, key, names, labels):
    caplog.set_level(logging.INFO)
    data = load(save(tmp_path / "m.npz", x=IMAGES, y=labels, **{key: names}))
    assert data.classes == COLOURS and data.labels.tolist() == LABELS.tolist()
    assert logged(caplog) == (["m.npz: labels counted from 1"] if labels is FROM_1 else [])


def test_class_names_without_an_image_to_train_on_are_no_classes(tmp_path):
    arrays = {"x_train": IMAGES, "y_train": LABELS + 1, "class_names": ["grey", *COLOURS, "white"]}
    with pytest.raises(UserError, match="has 5 class names and the labels 1 to 3, so whether they count"):
        load(save(tmp_path / "m.npz", **arrays))
    arrays["y_train"] = np.eye(5)[LABELS + 1]
    assert load(save(tmp_path / "m.npz", **arrays)).classes == COLOURS


def test_classes_that_are_numbers_are_no_names(tmp_path):
    assert load(save(tmp_path / "m.npz", x=IMAGES, y=LABELS, classes=np.arange(3) + 5)).classes == ["0", "1", "2"]


def test_arrays_that_are_not_used_are_named(tmp_path, caplog):
    caplog.set_level(logging.INFO)
    load(save(tmp_path / "m.npz", **KERAS, x_dev=IMAGES, class_names=COLOURS, more=LABELS))
    assert logged(caplog) == ["m.npz: not used: more, x_dev"]


@pytest.mark.parametrize("labels", [LABELS, LABELS + 1, LABELS * 3 + 2, np.array(COLOURS)[LABELS], np.eye(3)[LABELS]])
def test_a_file_to_score_has_the_names_of_the_file_to_train_on(tmp_path, labels):
    trained = load(save(tmp_path / "m.npz", x=IMAGES, y=labels))
    rest = np.flatnonzero(LABELS)  # a class does not occur
    path = save(tmp_path / "test.npz", x_test=IMAGES[rest], y_test=labels[rest])
    scored = custom.load(str(path), trained.preparation)
    assert [scored.classes[label] for label in scored.labels] == [
        trained.classes[trained.labels[each]] for each in rest
    ]
    assert set(scored.classes) < set(trained.classes) and set(scored.indices) == {"test"}


def test_the_images_held_out_from_converted_arrays_are_scored_again(tmp_path):
    images = picture(3, 40, 3, 20, 20).reshape(120, 3, 20, 20)
    path = save(tmp_path / "m.npz", X=images / 255, y=np.repeat([1, 2, 10], 40))
    config = TrainConfig(dataset=str(path))
    data = load_user_images(config)
    preparation = Preparation(20, 3, None)
    (test, train, val), classes = load_user_test_images(str(path), preparation, (config, data.fingerprint), False, True)
    assert classes == list(data.info.classes) == ["1", "2", "10"] and len(test) == 18 and train is val is None
    assert torch.equal(test.images, data.test.images)
    assert torch.equal(test.labels, data.test.labels)


def test_grey_arrays_become_colour_for_a_network_that_takes_it(tmp_path):
    path = save(tmp_path / "m.npz", test_images=IMAGES, test_labels=LABELS)
    data = custom.load(str(path), Preparation(20, 3, None))
    assert all((data.images[:, channel] == IMAGES).all() for channel in range(3)) and set(data.indices) == {"test"}


def write_kuzushiji(folder: Path, prefix: str = "k49") -> Path:
    folder.mkdir()
    for part in ("train", "test"):
        save(folder / f"{prefix}-{part}-imgs.npz", arr_0=IMAGES)
        save(folder / f"{prefix}-{part}-labels.npz", arr_0=LABELS)
    return folder


def test_kuzushijis_four_files_are_read(tmp_path):
    folder = write_kuzushiji(tmp_path / "k")
    data = load(folder)
    assert set(data.indices) == {"train", "test"} and data.classes == ["0", "1", "2"]
    assert np.array_equal(data.images[:6, 0], IMAGES) and data.labels.tolist() == LABELS.tolist() * 2
    (folder / "k49_classmap.csv").write_text("index,codepoint,char\n0,U+3042,あ\n1,U+3044,い\n2,U+3046,う\n", "utf-8")
    assert load(folder).classes == ["あ", "い", "う"]
    for path in sorted(folder.glob("k49-*.npz")):
        path.with_name(path.name.replace("k49", "kmnist")).write_bytes(path.read_bytes())
    with pytest.raises(UserError, match="holds several data sets: k49-train-imgs.npz, kmnist-train-imgs.npz"):
        load(folder)
    for path in folder.glob("kmnist-*"):
        path.unlink()
    (folder / "k49-test-labels.npz").unlink()
    with pytest.raises(UserError, match="but k49-test-labels.npz is missing"):
        load(folder)


class Malicious:
    def __reduce__(self):
        return os.mkdir, ("was_here",)


@pytest.mark.parametrize("given, message", [
    ({}, "has no arrays, and needs train_images and train_labels, x_train and y_train, or X and y"),
    ({"a": IMAGES, "b": LABELS, "x_dev": IMAGES}, "has a, b, x_dev, and needs train_images and train_labels"),
    ({"x_train_val": IMAGES, "y_train_val": LABELS}, "has x_train_val, y_train_val, and needs"),
    ({"x": IMAGES, "y": LABELS, "class_names": list("abca")}, "has the class name a twice"),
    ({"train_images": IMAGES}, "has train_images, but not the labels to it, such as train_labels"),
    ({"x_train": IMAGES, "y_train": LABELS, "y_valid": LABELS}, "has y_valid, but not the images to it, such as val_i"),
    ({"X_train": IMAGES, "train_images": IMAGES, "y_train": LABELS}, "has X_train and train_images, which mean the sa"),
    ({"X": IMAGES, "y": LABELS, "X_test": IMAGES, "y_test": LABELS}, "has X beside X_test, and its part can't be told"),
    ({"x": picture(6, 20, 20, 20, 1), "y": LABELS}, "x is uint8 (6, 20, 20, 20, 1): images are (N, H, W), (N, H, W, 1"),
    ({"x": picture(6, 20, 20, 20), "y": LABELS}, "x is uint8 (6, 20, 20, 20): neither the second axis nor the last is"),
    ({"x": picture(6, 20, 20, 4), "y": LABELS}, "x is uint8 (6, 20, 20, 4): four channels may be RGB with transpar"),
    ({"x": picture(6, 4, 20, 20), "y": LABELS}, "x is uint8 (6, 4, 20, 20): four channels may be RGB with transparen"),
    ({"x": picture(6, 3, 3, 3), "y": LABELS}, "channels may be the second axis or the last; save the images as (N, H"),
    ({"x": picture(6, 1, 20, 3), "y": LABELS}, "channels may be the second axis or the last"),
    ({"x": picture(6, 3 * 256), "y": LABELS}, "x is uint8 (6, 768): rows of pixels are no square; save the images as"),
    ({"x": picture(6, 49), "y": LABELS}, "rows of pixels are no square"),
    ({"x": picture(6), "y": LABELS}, "x is uint8 (6,): images are (N, H, W)"),
    ({"x": IMAGES.astype(str), "y": LABELS}, "x is <U3 (6, 20, 20), and pixels must be numbers"),
    ({"x": IMAGES / 127.5 - 1, "y": LABELS}, "and pixels are 0 to 255, or 0 to 1; values normalised in another way h"),
    ({"x": IMAGES.astype("int16") - 9, "y": LABELS}, "x (int16) has values from -9 to 246, and pixels are 0 to 255"),
    ({"x": IMAGES.astype("uint16") * 257, "y": LABELS}, "x (uint16) has values from 0 to 65535, and pixels are 0 to"),
    ({"x": np.where(IMAGES < 9, np.nan, IMAGES), "y": LABELS}, "x (float64) has NaN in image"),
    ({"x": np.where(IMAGES < 9, np.inf, IMAGES), "y": LABELS}, "x (float64) has values from 9.0 to inf, and pixels"),
    ({"x": IMAGES * np.float32(0.5), "y": LABELS}, "x (float32) is up to 127.5, but has fractions, such as "),
    ({"x_train": IMAGES / 255, "y_train": LABELS, "x_test": IMAGES, "y_test": LABELS},
     "x_train has values from 0 to 1, and x_test up to 255; give all parts the same scale"),
    ({"x": IMAGES, "y": LABELS[:5]}, "y is uint8 (5,): must be one label for each of the 6 images of x: (6,)"),
    ({"x": IMAGES, "y": LABELS[:, None, None]}, "y is uint8 (6, 1, 1): must be one label for each of the 6 images"),
    ({"x": IMAGES, "y": np.zeros((6, 14), int)}, "y is int64 (6, 14): row 0 has 0 classes, and each image needs exac"),
    ({"x": IMAGES, "y": np.eye(6) + np.eye(6, k=1)}, "y is float64 (6, 6): row 0 has 2 classes, and each image needs"),
    ({"x": IMAGES, "y": np.eye(6) / 2 + 1 / 12}, "rows of several numbers must be one-hot: 1 for the class, else 0"),
    ({"x": IMAGES, "y": LABELS / 4}, "y is float64 (6,): has 0.25 in it, and labels must be whole numbers or text"),
    ({"x": IMAGES, "y": LABELS + np.nan}, "y is float64 (6,): has nan in it, and labels must be whole numbers or text"),
    ({"x": IMAGES, "y": LABELS.astype(int) - 1}, "y is int64 (6,): has -1 in it; number the classes from 0, and leave"),
    ({"x": IMAGES, "y": LABELS * 1j}, "y is complex128 (6,): labels are whole numbers or text, one for each image"),
    ({"x": IMAGES, "y": np.array(["a", "b", "a", "b", " ", "b"])}, "the class name ' ' is empty, not UTF-8, or"),
    ({"x": IMAGES, "y": np.array(["a", "b", "a", "b", "A", "b"])}, "A and a would be one class in two spellings"),
    ({"x": IMAGES, "y": np.array([b"\xff", b"b"] * 3)}, "y is not in UTF-8; save it so"),
    ({"x": IMAGES, "y": LABELS * 0}, "0 is the only class, and there must be two or more; all labels are equal"),
    ({"train_images": IMAGES, "train_labels": LABELS, "test_images": IMAGES, "test_labels": LABELS + 1},
     "test labels have 3, which the training labels lack"),
    ({"x_train": IMAGES, "y_train": np.array(["a", "b"] * 3), "x_val": IMAGES, "y_val": np.array(["a", "bird"] * 3)},
     "val labels have bird, which the training labels lack"),
    ({"train_images": IMAGES[:0], "train_labels": LABELS[:0]}, "train_images has no images"),
    ({"test_images": IMAGES, "test_labels": LABELS}, "has images for test alone, and none to train on"),
    ({"train_images": np.array([Malicious()] * 6), "train_labels": LABELS}, "train_images is made of pickled Python"),
    ({"x": IMAGES, "y": np.array(["a", "b"] * 3, object)}, "run any code; save numbers, or text as y.astype(str)"),
    ({"x": IMAGES, "y": LABELS, "class_names": LABELS[:3]}, "class_names is uint8 (3,), and must be text, a name for"),
    ({"x": IMAGES, "y": LABELS, "class_names": ["a", "b"]}, "has 2 class names and the labels 0 to 2; labels must be"),
    ({"x": IMAGES, "y": LABELS + 1, "class_names": ["a", "b"]}, "2 class names and the labels 1 to 3; labels must be "),
    ({"x": IMAGES, "y": LABELS + 1, "class_names": list("abcd")}, "whether they count from 0 or from 1 can't be told"),
    ({"x": IMAGES, "y": np.eye(6), "class_names": list("abcd")}, "has 4 class names, and labels in 6 columns"),
    ({"x": IMAGES, "y": np.array(["a", "b"] * 3), "class_names": ["a", "c"]}, "has the labels b, and class names with"),
    ({"x": IMAGES, "y": LABELS, "class_names": ["a", "b", "a\u0301", "\u00e1"]}, "would be one class in two spellings"),
])  # fmt: skip
def test_arrays_that_are_no_data_set_are_refused(tmp_path, monkeypatch, given, message):
    monkeypatch.chdir(tmp_path)
    path = save(tmp_path / "m.npz", **given)
    with pytest.raises(UserError) as error:
        load(path)
    assert str(error.value).startswith(f"--dataset {path}: ") and message in str(error.value)
    assert not (tmp_path / "was_here").exists()


def test_a_damaged_npz_is_refused_wherever_it_is_damaged(tmp_path):
    path, generator = tmp_path / "m.npz", np.random.default_rng(0)
    np.savez_compressed(path, train_images=IMAGES // 16, train_labels=LABELS)
    content, refused = np.frombuffer(path.read_bytes(), np.uint8), 0
    for place in range(0, len(content), 7):
        damaged = content.copy()
        damaged[place : place + 2] = generator.integers(0, 256, 2)
        path.write_bytes(damaged.tobytes())
        try:
            load(path)
        except UserError:
            refused += 1
    assert refused > 100


@pytest.mark.parametrize("content, why", [
    (b"", "is none of them, or damaged"), (b"PK\x03\x04", "is a zip archive that is cut short"),
    (b"x" * 99, "is none of them, or damaged"), (b"\x93NUMPY\x01\x00", "is none of them, or damaged"),
    (b"image,label\na.png,cat\n", "is none of them, or damaged"), (b"7z\xbc\xaf", "is a 7z archive; unpack it"),
])  # fmt: skip
def test_a_file_of_no_kind_that_is_read_is_refused(tmp_path, content, why):
    path = tmp_path / "m.npz"
    path.write_bytes(content)
    with pytest.raises(UserError, match=f"m.npz: {why}; a folder, .zip, .tar, .tar.gz, .npz and .csv are read"):
        load(path)


def test_arrays_that_do_not_fit_into_the_memory_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(environment, "available_memory", lambda: 1000)
    with pytest.raises(UserError, match="to read it takes 0.0 MB of memory, and 0.0 MB are free"):
        load(save(tmp_path / "m.npz", train_images=IMAGES, train_labels=LABELS))


@pytest.mark.parametrize(
    "given",
    [
        {"x_test": picture(2, 3, 70, 80)},
        {"X": picture(2, 70, 80, 1) / 255},
        {"images": picture(2, 70 * 70)},
        {"a": LABELS, "train_images": picture(2, 70, 70)},
    ],
)
def test_the_side_of_the_images_is_known_without_reading_them(tmp_path, given, monkeypatch):
    labels = {
        key.replace("x", "y").replace("X", "y").replace("images", "labels"): LABELS[:2] for key in given if key != "a"
    }
    path = str(save(tmp_path / "m.npz", **given, **labels))
    monkeypatch.setattr(arrays, "_array", None)
    assert arrays.shorter_side(path) == 70 and custom.shows_photos(path)


# --- tables of pixels ---


def write_table(
    path: Path, labels: Iterable, images: np.ndarray = IMAGES, header: str = "label,pixel", place: int = 0
) -> Path:
    """A table of labels and pixels. header: the names of the label and of the pixels, which get a number; place: of the
    label's column."""
    rows = [[*map(str, image.ravel())] for image in images]
    if header:
        label, pixel = header.split(",")
        labels, rows = [label, *labels], [[f"{pixel}{number}" for number in range(len(rows[0]))], *rows]
    for label, row in zip(labels, rows, strict=True):
        row.insert(len(row) if place == -1 else place, str(label))
    path.write_text("".join(f"{','.join(row)}\n" for row in rows), "utf-8")
    return path


MARGIN = np.pad(IMAGES[:, 1:-1, 1:-1], ((0, 0), (1, 1), (1, 1)))


@pytest.mark.parametrize("header", ["label,pixel", "class,1x", "Letter,", "emotion,p_"])
@pytest.mark.parametrize("place", [0, 7, -1])
def test_a_table_of_a_label_and_pixels_is_read(tmp_path, caplog, header, place):
    caplog.set_level(logging.INFO)
    path = write_table(tmp_path / "t.csv", LABELS, header=header, place=place)
    assert arrays.is_pixel_table(path) and not custom.shows_photos(str(path))
    data = load(path)
    assert np.array_equal(data.images[:, 0], IMAGES) and data.preparation == Preparation(20, 1, None)
    assert (
        data.labels.tolist() == LABELS.tolist() and data.classes == ["0", "1", "2"] and set(data.indices) == {"train"}
    )
    assert data.names[5] == "t.csv[5]" and logged(caplog) == ["t.csv: rows of 400 pixels to 20x20"]


@pytest.mark.parametrize("rows", [1, 4, arrays.ROWS])
@pytest.mark.parametrize(
    "labels, classes", [(np.array(COLOURS)[LABELS], ["blue", "green", "red"]), (LABELS + 1, "123")]
)
@pytest.mark.parametrize("header, images, place", [
    ("label,pixel", IMAGES, 0), ("label,pixel", IMAGES / 255, 0), ("", MARGIN, 0), ("", MARGIN, -1),
])  # fmt: skip
def test_tables_have_any_labels_and_either_scale(tmp_path, monkeypatch, rows, labels, classes, header, images, place):
    monkeypatch.setattr(arrays, "ROWS", rows)
    data = load(write_table(tmp_path / "t.csv", labels, images, header, place))
    assert np.array_equal(data.images[:, 0], MARGIN if images is MARGIN else IMAGES)
    assert data.classes == [*classes] and [data.classes[each] for each in data.labels] == [*map(str, labels)]


def test_text_tells_the_labels_column_of_a_table_without_names(tmp_path):
    for place in (0, -1):
        data = load(write_table(tmp_path / "t.csv", [f" {COLOURS[label]}" for label in LABELS], IMAGES, "", place))
        assert np.array_equal(data.images[:, 0], IMAGES) and data.classes == sorted(COLOURS)


def test_a_table_may_have_quotes_blank_lines_semicolons_and_a_mark_of_its_encoding(tmp_path):
    path = write_table(tmp_path / "t.csv", np.array(COLOURS)[LABELS])
    text = path.read_text("utf-8").replace(",", '";"').replace("\n", '"\r\n\r\n"').replace("red", "r;d")
    path.write_text(f'\ufeff"{text[:-1]}', "utf-8", newline="")
    data = load(path)
    assert np.array_equal(data.images[:, 0], IMAGES) and data.classes == ["blue", "green", "r;d"]
    path = write_table(tmp_path / "t.csv", LABELS, MARGIN, "", -1)
    path.write_text(f"\ufeff{path.read_text('utf-8')}", "utf-8")
    assert np.array_equal(load(path).images[:, 0], MARGIN)


def test_a_table_to_be_predicted_is_left_out_of_its_folder(tmp_path, caplog):
    write_table(tmp_path / "train.csv", LABELS)
    pixels = [",".join(map(str, image.ravel())) for image in IMAGES]
    header = ",".join(f"pixel{number}" for number in range(IMAGES[0].size))
    (tmp_path / "test.csv").write_text("\n".join([header, *pixels]))
    assert [*load(tmp_path).indices] == ["train"]
    assert caplog.messages == [f"{tmp_path / 'test.csv'}: has pixels and no labels, so it is left out"]


def test_tables_of_two_parts_in_a_folder_are_one_data_set(tmp_path):
    write_table(tmp_path / "sign_train.csv", LABELS)
    write_table(tmp_path / "sign_test.csv", LABELS[:4], IMAGES[:4])
    data = load(tmp_path)
    assert {part: len(indices) for part, indices in data.indices.items()} == PARTS
    assert data.names[6] == "sign_test.csv[0]" and np.array_equal(data.images[6:, 0], IMAGES[:4])
    (tmp_path / "sign_val.csv").write_text("file,label\na.png,cat\n")
    assert [*arrays.pixel_tables(str(tmp_path))] == ["train", "test"]
    (tmp_path / "cat").mkdir()
    with pytest.raises(UserError, match="its folders hold no files"):
        load(tmp_path)
    write_table(tmp_path / "fashion_train.csv", LABELS)  # two to train on, so it can't be told which is meant
    assert arrays.pixel_tables(str(tmp_path)) == {}


@pytest.mark.parametrize("content, expected", [
    (b"file,label\n" + b"a.png,cat\n" * 99, False),
    (b"file," + b",".join(b"c%d" % i for i in range(99)) + b"\na.png," + b",".join([b"cat"] * 99) + b"\n", False),
    (b"1," * 62 + b"1\n", False),
    (b"1," * 63 + b"1\n", True),
    (b"id,label," + b"p," * 99 + b"\n7,cat," + b"0," * 99 + b"\n", True),
    (b"p," * 99 + b"p\n", False),
    (b"\xff," * 99, False),
    (b"", False),
    (b"0" * 200_000 + b",1" * 99, False),
])  # fmt: skip
def test_a_table_of_pixels_is_known_by_its_first_lines(tmp_path, content, expected):
    (tmp_path / "t.csv").write_bytes(content)
    assert arrays.is_pixel_table(tmp_path / "t.csv") is expected


def test_a_file_of_very_long_lines_is_not_read_to_know_it(tmp_path, monkeypatch):
    path = write_table(tmp_path / "t.csv", LABELS)
    monkeypatch.setattr(arrays, "LONGEST_LINE", 100)
    assert not arrays.is_pixel_table(path)


def with_line(number: int, old: str, new: str):
    """A change of the numbered line of a table."""

    def change(text: str) -> str:
        lines = text.splitlines(keepends=True)
        lines[number - 1] = lines[number - 1].replace(old, new, 1)
        return "".join(lines)

    return change


@pytest.mark.parametrize("table, change, message", [
    ({}, with_line(4, ",", ",x"), "line 4: could not convert string 'x"),
    ({}, with_line(4, ",", ",-"), "line 4 has -"),
    ({}, with_line(4, ",", ",300"), "in it, and pixels are 0 to 255, or 0 to 1"),
    ({}, with_line(5, ",", ",nan,"), "line 5 has 402 values, and line 1 401"),
    ({}, with_line(6, "\n", ",\n"), "line 6 has 402 values, and line 1 401"),
    ({}, with_line(1, "\n", ",\n"), "and must have a label and the pixels of a square image, such as 1 + 28 * 28"),
    ({}, with_line(7, "2", ""), "the class name '' is empty"),
    ({"images": IMAGES / 3}, str, "but has fractions, such as"),
    ({"images": COLOUR}, str, "has 1,200 columns of pixels, and of colour images the order can't be told: pixel by"),
    ({"labels": [""] * 6, "header": "pixel,pixel"}, lambda text: text.replace("pixel,", "").replace("\n,", "\n"),
     "has 400 columns of pixels, and none of labels"),
    ({"header": ""}, str, "whether its first or its last column holds the labels can't be told; name the columns"),
    ({"header": "", "labels": [1] * 6, "images": MARGIN}, str, "whether its first or its last column holds the labels"),
    ({}, with_line(3, ",", "\udcff,"), "is not in UTF-8; save it so"),
])  # fmt: skip
def test_a_table_that_is_no_data_set_is_refused_by_its_line(tmp_path, table, change, message):
    path = write_table(tmp_path / "t.csv", **{"labels": LABELS} | table)
    path.write_text(change(path.read_text("utf-8")), "utf-8", errors="surrogateescape")
    with pytest.raises(UserError) as error:
        load(path)
    assert str(error.value).startswith(f"--dataset {path}: ") and message in str(error.value)


def test_a_table_that_does_not_fit_into_the_memory_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(environment, "available_memory", lambda: 1000)
    with pytest.raises(UserError, match="to read it takes 0.0 MB of memory, and 0.0 MB are free"):
        load(write_table(tmp_path / "t.csv", LABELS))
