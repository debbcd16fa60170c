"""The images and labels of a data set in arrays: NumPy's .npz files."""

import contextlib
import csv
import zipfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from neural_lib.data.catalog import PARTS, dataset_error
from neural_lib.data.pictures import listed
from neural_lib.system.environment import check_memory
from neural_lib.system.errors import UserError, printable

MAX_CLASSES = 10_000  # upper limit of the number of classes that labels of a part to score imply

Arrays = dict[str, tuple[np.ndarray, np.ndarray]]  # part (one of PARTS) -> images, labels


def read_npz(path: str) -> tuple[list[str], Arrays]:
    # MedMNIST's keys (https://github.com/MedMNIST/MedMNIST): train_images, train_labels, val_images, ...
    arrays = _load_arrays(path, [f"{part}_{kind}" for part in PARTS for kind in ("images", "labels")])
    parts = {}
    for part in PARTS:
        images, labels = (arrays.get(f"{part}_{kind}") for kind in ("images", "labels"))
        if (images is None) != (labels is None):
            raise dataset_error(path, f"has only one of {part}_images and {part}_labels, and needs both")
        if images is not None:
            parts[part] = _checked(path, part, images, labels)
    return _classes_of(path, parts), parts


def read_kuzushiji(train_images: Path) -> tuple[list[str], Arrays]:
    # Kuzushiji-49's four files (https://github.com/rois-codh/kmnist), each with the key arr_0, and its optional class
    # map, from which the classes get their characters.
    prefix, folder = train_images.name.removesuffix("-train-imgs.npz"), train_images.parent
    parts = {}
    for part in ("train", "test"):
        files = [folder / f"{prefix}-{part}-{kind}.npz" for kind in ("imgs", "labels")]
        if missing := [file.name for file in files if not file.is_file()]:
            raise dataset_error(str(folder), f"has {train_images.name}, but {' and '.join(missing)} is missing")
        arrays = [_load_arrays(str(file), ["arr_0"])["arr_0"] for file in files]
        parts[part] = _checked(str(folder), part, *arrays)
    classes = _classes_of(str(folder), parts)
    with (
        contextlib.suppress(OSError, ValueError, LookupError),
        (folder / f"{prefix}_classmap.csv").open(encoding="utf-8", newline="") as handle,
    ):
        characters = {int(row["index"]): row["char"] for row in csv.DictReader(handle)}
        classes = [characters[label] for label in range(len(classes))]
    return classes, parts


def _load_arrays(path: str, keys: Sequence[str]) -> dict[str, np.ndarray]:
    # The archive's arrays under these keys, of which it must have one or more. Pickled objects are never loaded.
    try:
        if not zipfile.is_zipfile(path):  # np.load would treat it as a pickle
            raise ValueError
        with np.load(path, allow_pickle=False) as archive:
            wanted = [key for key in keys if key in archive.files]
            if not wanted:
                names = listed(sorted(archive.files)) or "no arrays"
                raise dataset_error(path, f"has {names}, and needs {' and '.join(keys[:2])}")
            # Twice the size, because the parts are concatenated to one array.
            needed = 2 * sum(archive.zip.getinfo(f"{key}.npy").file_size for key in wanted)
            check_memory(f"--dataset {printable(path)}: to read it takes", needed, "give a smaller file")
            return {key: archive[key] for key in wanted}
    except (UserError, MemoryError):
        raise
    except Exception as error:  # NumPy and zipfile raise exceptions of many types for damaged files
        if "allow_pickle" in str(error):
            raise dataset_error(path, "holds pickled Python objects, and loading those can run any code") from None
        raise dataset_error(path, "is no .npz file, or damaged") from None


def _checked(path: str, part: str, images: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    # Check a part's arrays: returns images (N, H, W) or (N, H, W, 3) unchanged, and labels as int64 (N,).
    if images.dtype != np.uint8 or images.ndim not in (3, 4) or images.ndim == 4 and images.shape[3] != 3:
        expected = "uint8 (N, H, W) or (N, H, W, 3)"
        raise dataset_error(path, f"the {part} images are {images.dtype} {images.shape}, and must be {expected}")
    if labels.ndim == 2 and labels.shape[1] == 1:
        labels = labels[:, 0]
    if labels.dtype.kind not in "iu" or labels.ndim != 1 or len(labels) != len(images):
        expected = f"whole numbers ({len(images)},) or ({len(images)}, 1), one class for each image"
        raise dataset_error(path, f"the {part} labels are {labels.dtype} {labels.shape}, and must be {expected}")
    if not images.size:
        raise dataset_error(path, f"the {part} part has no images")
    return images, labels.astype(np.int64)


def _classes_of(path: str, parts: Arrays) -> list[str]:
    # Class names "0", "1", ... for the labels.
    labels_of = {part: set(np.unique(labels).tolist()) for part, (_, labels) in parts.items()}
    # Parts to score need not show each class, so without a training part the highest label decides.
    implied = min(max(map(max, labels_of.values())) + 1, MAX_CLASSES)
    count = len(labels_of["train"]) if "train" in labels_of else implied
    for part, labels in labels_of.items():
        if wrong := sorted(labels - {*range(count)}):
            given = listed([str(label) for label in wrong])
            raise dataset_error(
                path, f"{part} labels must be 0 to {count - 1}, as there are {count} classes, not {given}"
            )
    return [str(label) for label in range(count)]
