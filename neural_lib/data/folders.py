"""The files of a data set in a folder: which part and which class each belongs to."""

import contextlib
import os
import unicodedata
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

from neural_lib.data.catalog import PARTS, dataset_error, is_text
from neural_lib.data.pictures import is_hidden, listed, natural_key
from neural_lib.system.errors import printable

OTHER_NAMES = {"training": "train", "valid": "val", "validation": "val", "testing": "test"}
PART_OF = {part: part for part in PARTS} | OTHER_NAMES  # folder name -> part
LAYOUT = "a data set is a folder with a subfolder of pictures for each class, or train/ and test/ with these in them"


class File(NamedTuple):
    """A file in the folder of a class."""

    part: str  # one of PARTS
    name: str  # path relative to the folder of the class
    label: int
    path: str  # path relative to the data set's folder
    size: int  # bytes
    changed: tuple[int, int]  # last change of the content, and of permissions or name; nanoseconds since 1970


def list_files(path: str) -> tuple[list[str], list[File], list[str]]:
    """List a data set's class names, the files in the class folders, and the names of stray files and folders.

    Files are ordered by part, then by name within the class folder (page2 before page10), then by class.
    Raises UserError if the folder can't be listed, or is not laid out as a data set.
    """
    folders, stray = subfolders(path)
    parts = {name: PART_OF[name.lower()] for name in folders if name.lower() in PART_OF}
    if len(parts) == len(folders) or "train" in parts.values() and len(parts) > 1:
        if doubled := [name for name, part in parts.items() if list(parts.values()).count(part) > 1]:
            raise dataset_error(path, f"has {' and '.join(doubled)}, which mean the same; merge them")
        stray += [f"{name}/" for name in folders if name not in parts]
        roots = {part: name for name, part in parts.items()}
    else:
        if mixed := [name for name in parts if subfolders(os.path.join(path, name))[0]]:
            why = f"{mixed[0]}/ holds folders as a part does, and lies beside classes; move it elsewhere"
            raise dataset_error(path, why)
        roots = {"train": ""}
    folders_of = {}
    for part, root in roots.items():
        folders_of[part], others = subfolders(os.path.join(path, root)) if root else (folders, [])
        stray += [os.path.join(root, name) for name in others]
    classes = _class_names(path, folders_of, len(stray))
    files = []
    for part, names in folders_of.items():
        for name in names:
            files += _files_of(path, part, os.path.join(roots[part], name), classes.index(name))
    if not files:
        raise dataset_error(path, f"its folders hold no files; {LAYOUT}")
    files.sort(key=lambda each: (PARTS.index(each.part), natural_key(each.name), each.label))
    return classes, files, stray


def subfolders(path: str) -> tuple[list[str], list[str]]:
    # The visible folders in a folder, and its other visible entries.
    try:
        names = sorted((name for name in os.listdir(path) if not is_hidden(name)), key=natural_key)
    except OSError as error:
        raise dataset_error(path, f"can't be looked into ({error.strerror})") from None
    here = Path(os.path.realpath(path))

    def is_folder(name: str) -> bool:
        inner = os.path.join(path, name)
        return os.path.isdir(inner) and not here.is_relative_to(os.path.realpath(inner))  # a link to a parent folder

    folders = [*filter(is_folder, names)]
    return folders, [name for name in names if name not in set(folders)]


def _class_names(path: str, folders_of: Mapping[str, list[str]], files: int) -> list[str]:
    # The class names in natural order: the training part's, or without one those of all parts.
    names = sorted({name for each in folders_of.values() for name in each}, key=natural_key)
    if not names:
        raise dataset_error(path, f"holds no folders{f', but {files:,} files' if files else ''}; {LAYOUT}")
    spellings: dict[str, str] = {}
    for name in names:
        if not is_text(name):
            why = "is not UTF-8, or has control characters; rename it"
            raise dataset_error(path, f"the name of the folder {printable(name)!r} {why}")
        other = spellings.setdefault(unicodedata.normalize("NFC", name).casefold().strip(), name)
        if other != name:
            raise dataset_error(path, f"the folders {other} and {name} would be one class in two spellings; rename one")
    known = folders_of.get("train", names)
    for part, folders in folders_of.items():
        if unknown := [name for name in folders if name not in known]:
            raise dataset_error(path, f"{part}/ has {listed(unknown)}, and train/ has no class of that name; rename it")
    return known


def _files_of(path: str, part: str, folder: str, label: int) -> Iterator[File]:
    def refuse(error: OSError) -> None:
        raise dataset_error(error.filename, f"can't be looked into ({error.strerror})")

    top = os.path.join(path, folder)
    for parent, folders, names in os.walk(top, onerror=refuse):
        folders[:] = [name for name in folders if not is_hidden(name)]
        inner = parent[len(top) + 1 :]
        # A link to a folder isn't followed, and is listed like a file that is no picture.
        for name in names + [name for name in folders if os.path.islink(os.path.join(parent, name))]:
            if is_hidden(name):
                continue
            file, size, changed = os.path.join(parent, name), 0, (0, 0)
            with contextlib.suppress(OSError):  # a broken link: read_picture reports it later
                status = os.stat(file)
                size, changed = status.st_size, (status.st_mtime_ns, status.st_ctime_ns)
            name = os.path.join(inner, name)
            yield File(part, name, label, os.path.join(folder, name), size, changed)
