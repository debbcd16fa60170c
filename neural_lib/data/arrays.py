"""The images and labels of a data set in arrays: NumPy's .npz files, and tables of pixels (.csv).

Each `read_` function returns the class names and the parts, and logs in one line what was converted. What has two
readings is refused.
"""

import contextlib
import csv
import itertools
import logging
import math
import os
import re
import zipfile
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from neural_lib.data.catalog import PART_OF, PARTS, check_class_names, dataset_error
from neural_lib.data.pictures import listed, natural_key
from neural_lib.system.environment import check_memory
from neural_lib.system.errors import UserError, printable

KIND_OF = {"images": "images", "image": "images", "x": "images", "labels": "labels", "label": "labels", "y": "labels"}
CLASS_NAMES = ("class_names", "label_names", "classes")  # keys of the class names, if given
KEYS = "train_images and train_labels, x_train and y_train, or X and y"
SMALLEST_SIDE = 8  # pixels; a row of fewer than 8x8 numbers is no image
DARK = 64  # of 255; if no pixel is as bright as this, the images may be on another scale, such as 0 to 16
BLOCK = 2**22  # pixels that are converted at once
ROWS = 1000  # lines of a table that are read at once
MAX_LABEL = 2**53  # larger numbers may not be exact as floats
LONGEST_LINE = 2**22  # characters; a file with longer lines is no table

log = logging.getLogger(__name__)


class Part(NamedTuple):
    """A part of a data set in arrays."""

    name: str  # the array or file of the images
    images: np.ndarray  # uint8 (N, H, W) or (N, H, W, 3)
    labels: np.ndarray  # int64 (N,), from 0


Arrays = dict[str, Part]  # part (one of PARTS) -> its images and labels


# --- .npz ---


def is_npz(path: str | Path) -> bool:
    """True for a zip archive of NumPy arrays alone, or of nothing."""
    # Damaged files raise exceptions of many types. np.load alone would take other files for an array or a pickle.
    with contextlib.suppress(Exception), zipfile.ZipFile(path), np.load(path, allow_pickle=False) as archive:
        return all(name.endswith(".npy") for name in archive.zip.namelist())
    return False


def read_npz(path: str) -> tuple[list[str], Arrays]:
    """Read an .npz file with the keys of MedMNIST (https://github.com/MedMNIST/MedMNIST), of Keras, or X and y."""
    with np.load(path, allow_pickle=False) as archive:
        keys = _keys_of(path, archive.files)
        by_name = {key.lower(): key for key in archive.files}
        names_key = next((by_name[name] for name in CLASS_NAMES if name in by_name), None)
        # Twice the size, because the parts are concatenated to one array.
        needed = 2 * sum(archive.zip.getinfo(f"{key}.npy").file_size for pair in keys.values() for key in pair)
        check_memory(f"--dataset {printable(path)}: to read it takes", needed, "give a smaller file")

        def read(key: str) -> np.ndarray:
            return _array(path, archive, key)

        names = _class_names(path, names_key, read(names_key)) if names_key else []
        unused = sorted({*archive.files} - {key for pair in keys.values() for key in pair} - {names_key})
        return _converted(path, keys, read, names, [f"not used: {listed(unused)}"] if unused else [])


def read_kuzushiji(train_images: Path) -> tuple[list[str], Arrays]:
    """Read the four files of Kuzushiji-49 (https://github.com/rois-codh/kmnist), each with the key arr_0.

    From the optional class map the classes get their characters.
    """
    prefix, folder = train_images.name.removesuffix("-train-imgs.npz"), train_images.parent
    keys = {part: tuple(f"{prefix}-{part}-{kind}.npz" for kind in ("imgs", "labels")) for part in ("train", "test")}
    if missing := [name for pair in keys.values() for name in pair if not (folder / name).is_file()]:
        raise dataset_error(str(folder), f"has {train_images.name}, but {' and '.join(missing)} is missing")
    check_memory(
        f"--dataset {printable(folder)}: to read it takes",
        2 * sum(_unpacked_size(folder / name) for pair in keys.values() for name in pair),
        "give smaller files",
    )

    def read(name: str) -> np.ndarray:
        with np.load(folder / name, allow_pickle=False) as archive:
            return _array(str(folder / name), archive, "arr_0")

    classes, parts = _converted(str(folder), keys, read)
    with (
        contextlib.suppress(OSError, ValueError, LookupError),
        (folder / f"{prefix}_classmap.csv").open(encoding="utf-8", newline="") as handle,
    ):
        characters = {row["index"]: row["char"] for row in csv.DictReader(handle)}
        classes = [characters[name] for name in classes]
    return classes, parts


def shorter_side(path: str) -> int:
    """The shorter side of the images in an .npz file or a table of pixels. Raises an exception for any other file."""
    if is_npz(path):
        with zipfile.ZipFile(path) as archive:
            keys = _keys_of(path, [name.removesuffix(".npy") for name in archive.namelist()])
            key = next(iter(keys.values()))[0]
            with archive.open(f"{key}.npy") as array:
                read = {1: np.lib.format.read_array_header_1_0, 2: np.lib.format.read_array_header_2_0}
                shape, _, _ = read[np.lib.format.read_magic(array)[0]](array)
        without_memory = np.broadcast_to(np.uint8(), shape)
        return min(_arranged(path, key, without_memory, []).shape[1:3])
    return math.isqrt(len(_table_of(path).row) - 1)


def _unpacked_size(path: Path) -> int:
    if not is_npz(path):
        raise dataset_error(str(path), "is no .npz file, or damaged")
    with zipfile.ZipFile(path) as archive:
        return sum(each.file_size for each in archive.infolist())


def _keys_of(path: str, names: Sequence[str]) -> dict[str, tuple[str, str]]:
    # The keys of each part's images and labels. Arrays of one part that has no name are to be divided: "train".
    found: dict[tuple[str, str], str] = {}
    for name in names:
        words = name.lower().split("_")
        kinds = [KIND_OF[word] for word in words if word in KIND_OF]
        parts = [PART_OF[word] for word in words if word in PART_OF]
        if len(kinds) != 1 or len(parts) > 1 or len(kinds + parts) != len(words):
            continue
        other = found.setdefault((parts[0] if parts else "", kinds[0]), name)
        if other != name:
            raise dataset_error(path, f"has {other} and {name}, which mean the same; remove one of them")
    if not found:
        raise dataset_error(path, f"has {listed(sorted(names)) or 'no arrays'}, and needs {KEYS}")
    for (part, kind), name in found.items():
        if len({*found} & {(part, "images"), (part, "labels")}) < 2:
            missing = "labels" if kind == "images" else "images"
            raise dataset_error(path, f"has {name}, but not the {missing} to it, such as {part or 'train'}_{missing}")
    given = {part for part, _ in found}
    if "" in given and len(given) > 1:
        without = next(name for (part, _), name in found.items() if not part)
        other = next(name for (part, _), name in found.items() if part)
        raise dataset_error(path, f"has {without} beside {other}, and its part can't be told; name it train_{without}")
    parts = [""] if "" in given else [part for part in PARTS if part in given]
    return {part or "train": (found[part, "images"], found[part, "labels"]) for part in parts}


def _array(path: str, archive: np.lib.npyio.NpzFile, key: str) -> np.ndarray:
    try:
        array = archive[key]
    except MemoryError:
        raise
    except Exception as error:  # NumPy and zipfile raise exceptions of many types for damaged files
        if "allow_pickle" in str(error):
            why = "is made of pickled Python objects, and loading those can run any code"
            raise dataset_error(path, f"{key} {why}; save numbers, or text as {key}.astype(str)") from None
        raise dataset_error(path, f"{key} is missing or damaged") from None
    if not isinstance(array, np.ndarray):
        raise dataset_error(path, f"{key} is no array, or damaged")
    return array


def _class_names(path: str, key: str, array: np.ndarray) -> list[str]:
    # The given class names; [] if the key may mean something else. (K,) -> K names
    if array.dtype.kind not in "US" or array.ndim != 1:
        if key.lower() == "classes":  # as a rule the labels that occur
            return []
        raise dataset_error(path, f"{key} is {array.dtype} {array.shape}, and must be text, a name for each class")
    return _text(path, key, array).tolist()


# --- tables of pixels ---


class _Table(NamedTuple):
    delimiter: str
    header: list[str]  # [] if there is none
    row: list[str]  # the first


def is_pixel_table(path: str | Path) -> bool:
    """True for a text file whose rows are 64 or more numbers, and at most two other values.

    Raises UserError if the file can't be opened.
    """
    return _table_of(path) is not None


def pixel_tables(folder: str) -> dict[str, str]:
    """The tables of pixels in a folder without folders, by part: x_train.csv, x_test.csv; {} if there are none.

    A part without labels is left out, with a warning: Kaggle's test.csv is to be predicted.
    """
    if not os.path.isdir(folder) or any(map(os.path.isdir, Path(folder).glob("*"))):  # glob skips what it may not see
        return {}
    files = {part: [*Path(folder).glob(f"*{part}.csv")] for part in PARTS}
    tables = {part: str(each[0]) for part, each in files.items() if len(each) == 1 and is_pixel_table(each[0])}
    for part, file in tables.copy().items():
        if part != "train" and "train" in tables and _side(len(_table_of(file).row)):
            log.warning("%s: has pixels and no labels, so it is left out", file)
            del tables[part]
    return tables if "train" in tables else {}


def read_pixel_tables(path: str, tables: Mapping[str, str]) -> tuple[list[str], Arrays]:
    """Read tables whose rows are a label and the pixels of a square grey image, as Kaggle's are.

    path: the data set's name in messages. tables: the file of each part.
    """
    # The images take about half of a file's size as bytes, or as float32 all of it, and as much again to join them.
    needed = 2 * sum(os.path.getsize(file) for file in tables.values())
    check_memory(f"--dataset {printable(path)}: to read it takes", needed, "give a smaller file")
    arrays, keys = {}, {}
    for part, file in tables.items():
        name = os.path.basename(file)
        keys[part] = (name, f"the labels of {name}")
        arrays |= zip(keys[part], _read_table(file), strict=True)
    return _converted(path, keys, arrays.__getitem__)


def _is_number(cell: str) -> bool:
    with contextlib.suppress(ValueError):
        float(cell)
        return True
    return False


def _cells(line: str, delimiter: str) -> list[str]:
    return next(csv.reader([line], delimiter=delimiter), [])


def _table_of(path: str | Path) -> _Table | None:
    try:
        with open(path, encoding="utf-8-sig", errors="replace") as file:
            lines = (line for line in iter(lambda: file.readline(LONGEST_LINE), "") if line.strip())
            first, second = next(lines, ""), next(lines, "")
        delimiter = max(",;\t", key=first.count)
        first, second = _cells(first, delimiter), _cells(second, delimiter)
    except csv.Error:
        return None
    except OSError as error:
        raise dataset_error(str(path), f"can't be read ({error.strerror or error})") from None
    if len(first) < SMALLEST_SIDE**2:
        return None
    inner = first[1:-1]  # without a header a label of text may be first or last
    is_count = inner[0].isdecimal() and inner == [str(int(inner[0]) + column) for column in range(len(inner))]
    header, row = (first, second) if is_count or not all(map(_is_number, inner)) else ([], first)
    is_table = len(row) >= SMALLEST_SIDE**2 and len(row) - sum(map(_is_number, row)) <= 2
    return _Table(delimiter, header, row) if is_table else None


def _label_column(path: str, table: _Table) -> int | None:
    # The index of the only column whose name is no number after the others' prefix, or that holds text; None if
    # there is none. Raises UserError if the other columns are no square.
    stems = [re.sub(r"\d+", "0", name) for name in table.header] or [_is_number(cell) for cell in table.row]
    usual = Counter(stems).most_common(1)[0][0]
    labels, columns = [column for column, stem in enumerate(stems) if stem != usual], len(stems)
    if _side(columns - 1):
        return labels[0] if len(labels) == 1 else None
    if _side(columns):
        raise dataset_error(path, f"has {columns:,} columns of pixels, and none of labels")
    if _side((columns - 1) / 3):
        why = "of colour images the order can't be told: pixel by pixel, or colour by colour; give an .npz file"
        raise dataset_error(path, f"has {columns - 1:,} columns of pixels, and {why}")
    needed = "and must have a label and the pixels of a square image, such as 1 + 28 * 28"
    raise dataset_error(path, f"has {columns:,} columns, {needed}")


def _side(pixels: float) -> int:
    # The side of a square of so many pixels; 0 if there is none.
    side = math.isqrt(int(pixels))
    return side if side**2 == pixels and side >= SMALLEST_SIDE else 0


def _read_table(path: str) -> tuple[np.ndarray, np.ndarray]:
    # The pixels (N, S*S), uint8 if all are whole numbers, else float32; and the labels (N,), numbers or text.
    table = _table_of(path)
    label, delimiter, columns = _label_column(path, table), table.delimiter, len(table.header or table.row)
    used = [column for column in range(columns) if column != label]
    blocks, labels = [], []
    try:
        with open(path, encoding="utf-8-sig") as file:
            lines = ((number, line) for number, line in enumerate(file, 1) if line.strip())
            rows = itertools.islice(lines, 1 if table.header else 0, None)
            while block := list(itertools.islice(rows, ROWS)):
                for number, line in block:
                    cells = _cells(line, delimiter) if '"' in line else line.rstrip("\n").split(delimiter)
                    if len(cells) != columns:
                        raise dataset_error(path, f"line {number} has {len(cells):,} values, and line 1 {columns:,}")
                    if label is not None:
                        labels.append(cells[label].strip())
                blocks.append(_numbers(path, block, delimiter, used))
    except UnicodeDecodeError:
        raise dataset_error(path, "is not in UTF-8; save it so") from None
    pixels = np.concatenate(blocks)
    if label is not None:
        return pixels, np.array(labels, float if all(map(_is_number, labels)) else None)
    # Images often have a margin, so if one of the outer columns is always the same, the other holds the labels.
    varying = [column for column in (0, -1) if (pixels[:, column] != pixels[0, column]).any()]
    if len(varying) != 1:
        advice = "name the columns in the first line: label, pixel0, pixel1, ..."
        raise dataset_error(path, f"whether its first or its last column holds the labels can't be told; {advice}")
    return pixels[:, 1:] if varying == [0] else pixels[:, :-1], pixels[:, varying[0]]


def _numbers(path: str, lines: list[tuple[int, str]], delimiter: str, used: list[int]) -> np.ndarray:
    # The values of numbered lines in these columns: uint8 if all are whole numbers, else float32.
    options = {"delimiter": delimiter, "comments": None, "quotechar": '"', "usecols": used, "ndmin": 2}
    try:
        values = np.loadtxt([line for _, line in lines], np.float32, **options)
    except ValueError as error:
        if len(lines) > 1:
            for line in lines:  # the first that is wrong raises
                _numbers(path, [line], delimiter, used)
        why = str(error).split(" at row")[0].replace("float32", "a number")
        raise dataset_error(path, f"line {lines[0][0]}: {why}") from None
    inner = values if _side(len(used)) else values[:, 1:-1]  # the first or the last may be the label
    wrong = ~((inner >= 0) & (inner <= 255))
    if wrong.any():
        row, column = np.argwhere(wrong)[0]
        why = "and pixels are 0 to 255, or 0 to 1"
        raise dataset_error(path, f"line {lines[row][0]} has {inner[row, column]} in it, {why}")
    with np.errstate(invalid="ignore"):  # a label may be larger
        whole = values.astype(np.uint8)
    return whole if (whole == values).all() else values


# --- from any numbers to images and labels ---


def _converted(
    path: str,
    keys: Mapping[str, tuple[str, str]],
    read: Callable[[str], np.ndarray],
    names: Sequence[str] = (),
    remarks: Sequence[str] = (),
) -> tuple[list[str], Arrays]:
    # Convert the arrays of each part, and log the changes and remarks. keys: the names of a part's images and labels,
    # by which `read` gives the arrays. names: the class names, if given.
    changes: list[str] = []
    images_of, brightest, labels_of, columns = {}, {}, {}, 0
    for part, (key, label_key) in keys.items():
        images_of[part], brightest[key] = _levels(path, key, _arranged(path, key, read(key), changes), changes)
        labels = read(label_key)
        labels_of[part], one_hot = _label_values(path, label_key, labels, key, len(images_of[part]))
        columns = max(columns, one_hot)
    scaled = [key for key, value in brightest.items() if 0 < value <= 1]
    if others := [key for key, value in brightest.items() if value > 1] if scaled else []:
        why = f"{scaled[0]} has values from 0 to 1, and {others[0]} up to {brightest[others[0]]}"
        raise dataset_error(path, f"{why}; give all parts the same scale")
    if 1 < max(brightest.values()) < DARK:
        text = "%s: the brightest pixel is %s of 255; if that is white, scale the images, as pictures reach 255"
        log.warning(text, printable(os.path.basename(path)), max(brightest.values()))
    classes, labels_of = _named(path, labels_of, names, columns, changes)
    if texts := dict.fromkeys([*changes, *remarks]):
        log.info("%s: %s", printable(os.path.basename(path)), ", ".join(texts))
    return classes, {part: Part(keys[part][0], images_of[part], labels_of[part]) for part in keys}


def _arranged(path: str, key: str, images: np.ndarray, changes: list[str]) -> np.ndarray:
    # A view (N, H, W) or (N, H, W, 3) of images in one of the orders that are read.
    shape = images.shape

    def refuse(why: str) -> UserError:
        return dataset_error(path, f"{key} is {images.dtype} {shape}: {why}")

    if len(shape) > 1 and not images.size:
        raise dataset_error(path, f"{key} has no images")
    if len(shape) == 2:
        if side := _side(shape[1]):
            changes.append(f"rows of {shape[1]:,} pixels to {side}x{side}")
            return images.reshape(-1, side, side)
        raise refuse("rows of pixels are no square; save the images as (N, H, W) or (N, H, W, 3)")
    if len(shape) == 3:
        return images
    if len(shape) != 4:
        raise refuse("images are (N, H, W), (N, H, W, 1 or 3) or (N, 1 or 3, H, W); volumes aren't read")
    is_first, is_last = shape[1] in (1, 3), shape[3] in (1, 3)
    if is_first and is_last:
        raise refuse("channels may be the second axis or the last; save the images as (N, H, W) or larger ones")
    if not is_first and not is_last:
        if 4 in (shape[1], shape[3]):
            raise refuse("four channels may be RGB with transparency or CMYK; save (N, H, W, 3)")
        raise refuse("neither the second axis nor the last is 1 or 3 channels; volumes aren't read")
    if is_first:
        changes.append("channels moved last")
        images = images.transpose(0, 2, 3, 1)
    return images if images.shape[3] == 3 else images[..., 0]


def _levels(path: str, key: str, images: np.ndarray, changes: list[str]) -> tuple[np.ndarray, float]:
    # The images as uint8 from 0 to 255, and their largest value before that. A largest value of 1 is white.
    if images.dtype.kind not in "buif":
        raise dataset_error(path, f"{key} is {images.dtype} {images.shape}, and pixels must be numbers")
    low, high = images.min(), images.max()
    if np.isnan(low):
        index = next(index for index, image in enumerate(images) if np.isnan(image).any())
        raise dataset_error(path, f"{key} ({images.dtype}) has NaN in image {index}; leave that out, or mend it")
    if not (low >= 0 and high <= 255):  # NaN, too
        why = "and pixels are 0 to 255, or 0 to 1"
        if images.dtype.kind == "f":
            why += "; values normalised in another way have several readings, so save the images as before that"
        raise dataset_error(path, f"{key} ({images.dtype}) has values from {low} to {high}, {why}")
    if images.dtype == np.uint8 and high != 1:
        return images, high.item()
    levels = np.empty_like(images, np.uint8)
    step = max(1, BLOCK // math.prod(images.shape[1:]))
    for first in range(0, len(images), step):
        values = images[first : first + step].astype(np.float32)
        values = np.rint(values * 255) if high <= 1 else values
        levels[first : first + step] = values
        if high > 1 and (levels[first : first + step] != values).any():
            fraction = values[levels[first : first + step] != values][0]
            why = f"is up to {high}, but has fractions, such as {fraction}; save whole numbers, or 0 to 1"
            raise dataset_error(path, f"{key} ({images.dtype}) {why}")
    changes.append("images scaled from 0..1 to 0..255" if high <= 1 else f"images {images.dtype} to uint8")
    return levels, high.item()


def _text(path: str, key: str, array: np.ndarray) -> np.ndarray:
    # Text as str; bytes are UTF-8.
    try:
        return np.char.decode(array, "utf-8") if array.dtype.kind == "S" else array
    except UnicodeDecodeError:
        raise dataset_error(path, f"{key} is not in UTF-8; save it so") from None


def _label_values(path: str, key: str, labels: np.ndarray, image_key: str, count: int) -> tuple[np.ndarray, int]:
    # The labels as whole numbers or text, (N,), and the number of columns if they are one-hot, else 0.
    def refuse(why: str) -> UserError:
        return dataset_error(path, f"{key} is {labels.dtype} {labels.shape}: {why}")

    if labels.ndim == 2 and labels.shape[1] == 1:
        labels = labels[:, 0]
    if labels.ndim not in (1, 2) or len(labels) != count:
        raise refuse(f"must be one label for each of the {count:,} images of {image_key}: ({count},)")
    if labels.dtype.kind in "US" and labels.ndim == 1:
        return _text(path, key, labels), 0
    if labels.dtype.kind not in "buif":
        raise refuse("labels are whole numbers or text, one for each image, or one-hot")
    if labels.ndim == 2:
        if not ((labels == 0) | (labels == 1)).all():
            raise refuse("rows of several numbers must be one-hot: 1 for the class, else 0")
        if len(several := np.flatnonzero(np.count_nonzero(labels, axis=1) != 1)):
            given = f"row {several[0]} has {np.count_nonzero(labels[several[0]])} classes"
            raise refuse(f"{given}, and each image needs exactly one")
        return labels.argmax(axis=1), labels.shape[1]
    numbers = labels.astype(np.float64)
    if not (is_whole := np.isfinite(numbers) & (np.trunc(numbers) == numbers)).all():
        raise refuse(f"has {labels[~is_whole][0]} in it, and labels must be whole numbers or text")
    if not (is_label := (numbers >= 0) & (numbers <= MAX_LABEL)).all():
        raise refuse(f"has {labels[~is_label][0]} in it; number the classes from 0, and leave out images without one")
    return labels.astype(np.int64), 0


def _named(
    path: str, labels_of: Mapping[str, np.ndarray], names: Sequence[str], columns: int, changes: list[str]
) -> tuple[list[str], dict[str, np.ndarray]]:
    # The classes and each part's labels from 0. The name of a class is its label as text, so that no label changes its
    # meaning between files; or the label's name among those given. The classes are those of the training part, or
    # without one those of all parts. columns: of one-hot labels, else 0.
    unique = {part: np.unique(labels, return_inverse=True) for part, labels in labels_of.items()}
    values_of = {part: values.tolist() for part, (values, _) in unique.items()}
    values = set().union(*values_of.values())
    numbers = sorted(value for value in values if not isinstance(value, str))
    name_of = {value: str(value) for value in values}
    if names and numbers:
        first = _first_label(path, numbers, len(names), columns)
        name_of |= {number: names[number - first] for number in numbers}
        changes += ["labels counted from 1"] * first
    elif columns:
        changes.append(f"labels one-hot to {len(numbers)} classes")
    elif numbers and numbers != [*range(len(numbers))]:
        changes.append(f"the classes are called by their labels, {numbers[0]} to {numbers[-1]}")
    if len({*names}) < len(names):
        raise dataset_error(path, f"has the class name {Counter(names).most_common(1)[0][0]} twice")
    check_class_names(path, sorted({*name_of.values(), *names}))
    if unknown := [name for name in name_of.values() if names and name not in names]:
        raise dataset_error(path, f"has the labels {listed(sorted(unknown))}, and class names without them")
    known = {name_of[value] for value in values_of.get("train", values)}
    for part, given in values_of.items():
        if lacking := sorted({name_of[value] for value in given} - known, key=natural_key):
            raise dataset_error(path, f"{part} labels have {listed(lacking)}, which the training labels lack")
    classes = [name for name in names if name in known] or sorted(known, key=natural_key)
    index = {name: label for label, name in enumerate(classes)}
    return classes, {
        part: np.array([index[name_of[value]] for value in values.tolist()])[places]
        for part, (values, places) in unique.items()
    }


def _first_label(path: str, labels: list[int], count: int, columns: int) -> int:
    # The label, 0 or 1, of the first of `count` class names, by the labels that occur, ascending.
    given = f"has {count:,} class names and the labels {labels[0]} to {labels[-1]}"
    if columns not in (0, count):
        raise dataset_error(path, f"has {count:,} class names, and labels in {columns:,} columns")
    if labels[-1] > count or labels[0] == 0 and labels[-1] == count:
        raise dataset_error(path, f"{given}; labels must be 0 to {count - 1}, or 1 to {count}")
    if columns or labels[0] == 0:
        return 0
    if labels[-1] < count:
        raise dataset_error(
            path, f"{given}, so whether they count from 0 or from 1 can't be told; save the names as labels"
        )
    return 1
