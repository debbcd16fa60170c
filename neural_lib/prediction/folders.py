"""Folders that a command fills: a subfolder for each class, and a table of what was done."""

import codecs
import contextlib
import csv
import itertools
import os
import re
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Generic, NamedTuple, TypeVar

from neural_lib.data.catalog import is_text
from neural_lib.data.pictures import COMMAND_TABLES, expanded
from neural_lib.system.errors import UserError, escaped, printable
from neural_lib.system.files import (
    check_output,
    check_output_folder,
    csv_bytes,
    csv_rows,
    make_folder,
    write_file,
)

UNSURE = "unsure"  # --sort-into's folder of pictures whose answer is not sure
OTHER_PLACE = "choose another folder"
# archive.js gives files and folders the same names
REFUSED_CHARACTERS = '<>:"/\\|?*'  # in names: by Windows; control characters, too
REFUSED_NAME = re.compile(r"(con|prn|aux|nul|com\d|lpt\d)(\.|$)", re.IGNORECASE)  # names of Windows' devices
LONGEST_NAME = 200  # bytes; file systems take 255, and a number and the ending of a temporary file are added
LONGEST_SUFFIX = 20  # bytes

RowType = TypeVar("RowType", bound=NamedTuple)


# --- the folder ---


def check_folder(folder: str, option: str, given: Iterable[str], files: Iterable[Path], done: str) -> None:
    """Make the folder that an option names if it is missing. Raises UserError if it and the pictures don't lie apart.

    given: files, folders and patterns of the command line. files: the pictures found there. done: what is done with
    them, for the message: "sorted".
    """
    name = f"{option} {printable(folder)}"
    for each in (path for pattern in given for path in expanded(pattern) if path.is_dir()):
        if folder and _is_inside(folder, each):
            raise UserError(f"{name}: is in {printable(each)}, which is to be {done}; {OTHER_PLACE}")
        if folder and _is_inside(each, folder):
            raise UserError(f"{name}: holds {printable(each)}, which is to be {done}; {OTHER_PLACE}")
    for parent in {each.parent for each in files if each.exists()}:
        if folder and _is_inside(parent, folder):
            raise UserError(f"{name}: holds pictures that are to be {done}, in {printable(parent)}; {OTHER_PLACE}")
        # refuses inbox/*.png with inbox/sorted, but not *.png with sorted, which people type in the folder of pictures
        if folder and _is_inside(folder, parent) and not (_is_inside(folder, ".") and _is_inside(".", parent)):
            raise UserError(f"{name}: is in {printable(parent)}, which holds pictures to be {done}; {OTHER_PLACE}")
    check_output_folder(folder, option)


def _is_inside(path: str | Path, folder: str | Path) -> bool:
    # True if `path` is `folder` or below it, neither of which needs to exist. The system compares the folders, so that
    # links, and the case of letters where it doesn't count, hide nothing.
    real = Path(os.path.realpath(path))
    return os.path.isdir(folder) and any(
        os.path.samefile(each, folder) for each in (real, *real.parents) if os.path.exists(each)
    )


def check_class_folder(path: Path, option: str) -> None:
    """Raise UserError if the folder of a class is a link, which may lead into the folder of pictures, or a file."""
    if path.is_symlink() or path.exists() and not path.is_dir():
        kind = "a link" if path.is_symlink() else "a file"
        raise UserError(f"{option} {printable(path)}: is {kind}, not the folder of a class; {OTHER_PLACE}")


# --- names in it ---


def portable(name: str) -> str:
    """A name for a file or a folder that file systems take: what they may refuse becomes _; most names stay."""
    name = "".join("_" if each in REFUSED_CHARACTERS or not is_text(each) else each for each in name)
    name = re.sub(r"^[. ]|[. ]$|^$", "_", name)  # hidden; or cut off by Windows; or empty
    name = f"_{name}" if REFUSED_NAME.match(name) else name
    stem, suffix = os.path.splitext(name)
    if len(suffix.encode()) > LONGEST_SUFFIX:
        stem, suffix = name, ""
    return stem.encode()[: LONGEST_NAME - len(suffix.encode())].decode(errors="ignore") + suffix


def numbered(name: str) -> Iterator[str]:
    """Names to choose a free one from: cat.jpg, cat-1.jpg, cat-2.jpg, ..."""
    stem, suffix = os.path.splitext(name)
    yield name
    yield from (f"{stem}-{number}{suffix}" for number in itertools.count(1))


def folded(name: str) -> str:
    """The same text for names that some file systems take for one."""
    return unicodedata.normalize("NFC", name).casefold()


def class_folders(classes: Sequence[str], known: Mapping[str, str] | None = None) -> list[str]:
    """The name of each class's folder: the class name if that is portable. No two are alike, whatever their case.

    known: the folders of classes that have one.
    """
    known = known or {}
    taken = {UNSURE, *COMMAND_TABLES, *map(folded, known.values())}
    folders = [known.get(name, "") for name in classes]
    # a class whose name stays as it is comes first, so that no other class takes that folder
    for index in sorted(range(len(classes)), key=lambda index: portable(classes[index]) != classes[index]):
        if not folders[index]:
            names = numbered(portable(classes[index]))
            folders[index] = next(each for each in names if folded(each) not in taken)
            taken.add(folded(folders[index]))
    return folders


def holds(file: Path, content: bytes) -> bool:
    """True if this is a file, not a link, with that content."""
    with contextlib.suppress(OSError):
        is_file = file.is_file() and not file.is_symlink()
        return is_file and file.stat().st_size == len(content) and file.read_bytes() == content
    return False


def place_file(folder: Path, name: str, content: bytes, is_taken: Callable[[str], bool]) -> str:
    """Write a file to `name` in `folder`, or to a numbered name if another file is there; returns the name.

    name: path in the folder, with forward slashes. A file with this content is taken for this one, which a command that
    ended before it could write its row has left. is_taken: True for a name that a row gives to another file.
    """

    def is_usable(name: str) -> bool:
        return not is_taken(name) and (not os.path.lexists(folder / name) or holds(folder / name, content))

    name = next(filter(is_usable, numbered(name)))
    if not os.path.lexists(folder / name):
        make_folder((folder / name).parent)
        write_file(folder / name, lambda: content)
    return name


# --- the table ---


def path_text(path: Path) -> str:
    """A picture's path in a table: links of its folder are resolved, for the folder may be named in several ways."""
    return escaped(os.path.join(os.path.realpath(path.parent), path.name))


class Table(Generic[RowType]):
    """A CSV file of a command's rows, each a NamedTuple of texts, which the same command reads to do the rest.

    is_appended: False if the command always replaces it whole. Else a last row without a line's end was cut off.
    """

    def __init__(self, path: Path, kind: type[RowType], option: str, is_appended: bool = True) -> None:
        self.path, self.kind, self.option, self.is_appended = path, kind, option, is_appended

    def check(self) -> None:
        """Raise UserError if rows can't be written, or it was written by another program."""
        if self.path.is_symlink():
            raise UserError(f"{self.option} {printable(self.path)}: is a link; remove it, or {OTHER_PLACE}")
        check_output(self.path, self.option, (".csv",))
        self.read()

    def read(self) -> list[RowType]:
        """The rows without one that was cut off; none if there is no file. Raises UserError as check does."""
        titles = self.kind._fields
        try:
            with self.path.open("r+b") as file:  # rows will be written to it, too
                content = file.read()
            first = content.partition(b"\n")[0].decode(errors="replace")
            found, *rows = csv_rows(content, max(",;\t", key=first.count)) or [titles]  # some spreadsheets change it
        except FileNotFoundError:
            return []
        except (OSError, csv.Error) as error:
            reason = getattr(error, "strerror", None) or error
            raise UserError(f"{self.option} {printable(self.path)}: can't be used ({reason}); {OTHER_PLACE}") from None
        if tuple(found) != titles:
            why = f"was not written by predict.py {self.option}, or has been changed"
            raise UserError(f"{self.option} {printable(self.path)}: {why}; move it, or {OTHER_PLACE}")
        is_cut_off = self.is_appended and not content.endswith((b"\n", b"\r"))
        rows = rows[:-1] if is_cut_off else rows
        return [self.kind(*row) for row in rows if len(row) == len(titles)]

    def append(self, rows: Iterable[RowType]) -> None:
        """Add rows at the end. Raises OSError."""
        with self.path.open("ab") as file:
            file.write(csv_bytes(rows).removeprefix(codecs.BOM_UTF8))

    def tidy(self, rows: Iterable[RowType]) -> None:
        """Replace the file, unless it has exactly these rows. Raises OSError."""
        content = csv_bytes([self.kind._fields, *rows])
        if not self.path.exists() or self.path.read_bytes() != content:
            write_file(self.path, lambda: content)
