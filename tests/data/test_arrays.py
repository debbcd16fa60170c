"""Data sets in arrays: NumPy's .npz files."""

import os
from pathlib import Path

import numpy as np
import pytest

from neural_lib.data import custom, ink
from neural_lib.data.catalog import Preparation
from neural_lib.data.custom import Request
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


@pytest.mark.parametrize("arrays, message", [
    ({}, "has no arrays, and needs train_images and train_labels"),
    ({"x": IMAGES, "y": LABELS}, "has x, y, and needs train_images and train_labels"),
    ({"train_images": IMAGES}, "has only one of train_images and train_labels, and needs both"),
    ({"train_images": IMAGES / 255, "train_labels": LABELS}, "images are float64 (6, 20, 20), and must be uint8"),
    ({"train_images": picture(6, 20, 20, 20, 1), "train_labels": LABELS}, "images are uint8 (6, 20, 20, 20, 1)"),
    ({"train_images": picture(6, 20, 20, 4), "train_labels": LABELS}, "must be uint8 (N, H, W) or (N, H, W, 3)"),
    ({"train_images": IMAGES, "train_labels": LABELS[:5]}, "the train labels are uint8 (5,), and must be whole"),
    ({"train_images": IMAGES, "train_labels": np.zeros((6, 14), int)}, "(6, 14), and must be whole numbers (6,) or"),
    ({"train_images": IMAGES, "train_labels": LABELS / 1}, "the train labels are float64 (6,), and must be whole"),
    ({"train_images": IMAGES, "train_labels": LABELS * 2}, "labels must be 0 to 2, as there are 3 classes, not 4"),
    ({"train_images": IMAGES, "train_labels": LABELS.astype(int) - 1},
     "labels must be 0 to 2, as there are 3 classes, not -1"),
    ({"train_images": IMAGES, "train_labels": LABELS * 0}, "0 is the only class"),
    ({"train_images": IMAGES, "train_labels": LABELS, "test_images": IMAGES, "test_labels": LABELS + 1},
     "test labels must be 0 to 2, as there are 3 classes, not 3"),
    ({"train_images": IMAGES[:0], "train_labels": LABELS[:0]}, "the train part has no images"),
    ({"test_images": IMAGES, "test_labels": LABELS}, "has images for test alone, and none to train on"),
    ({"train_images": np.array([Malicious()] * 6), "train_labels": LABELS}, "holds pickled Python objects, and"),
])  # fmt: skip
def test_arrays_that_are_no_data_set_are_refused(tmp_path, monkeypatch, arrays, message):
    monkeypatch.chdir(tmp_path)
    path = save(tmp_path / "m.npz", **arrays)
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


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04", b"x" * 99, b"\x93NUMPY\x01\x00"])
def test_a_file_that_is_no_npz_is_refused(tmp_path, content):
    path = tmp_path / "m.npz"
    path.write_bytes(content)
    with pytest.raises(UserError, match="m.npz: is no .npz file, or damaged"):
        load(path)


def test_arrays_that_do_not_fit_into_the_memory_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(environment, "available_memory", lambda: 1000)
    with pytest.raises(UserError, match="to read it takes 0.0 MB of memory, and 0.0 MB are free"):
        load(save(tmp_path / "m.npz", train_images=IMAGES, train_labels=LABELS))
