"""--sort-into of predict.py: copies of the pictures in a folder for each class, and answers.csv, which lists them.

answers.csv gets its row as soon as a picture has been copied; the same command reads it and sorts the rest.
"""

import codecs
import contextlib
import csv
import glob
import itertools
import os
import re
import shutil
import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from neural_lib.data.catalog import is_text
from neural_lib.data.pictures import expanded
from neural_lib.system.cli import failures_explained
from neural_lib.system.errors import RunError, UserError, escaped, printable
from neural_lib.system.files import (
    check_output,
    check_output_folder,
    csv_bytes,
    csv_rows,
    locked,
    make_folder,
    write_file,
)

if TYPE_CHECKING:
    from neural_lib.prediction.recogniser import Reading

OPTION = "--sort-into"
ANSWERS = "answers.csv"
UNSURE = "unsure"  # the folder of pictures whose answer is not sure
OTHER_PLACE = "choose another folder"
# archive.js gives files and folders the same names
REFUSED_CHARACTERS = '<>:"/\\|?*'  # in names: by Windows; control characters, too
REFUSED_NAME = re.compile(r"(con|prn|aux|nul|com\d|lpt\d)(\.|$)", re.IGNORECASE)  # names of Windows' devices
LONGEST_NAME = 200  # bytes; file systems take 255, and a number and the ending of a temporary file are added
LONGEST_SUFFIX = 20  # bytes
MAX_CLASSES = 10  # in the summary


class Row(NamedTuple):
    """A row of answers.csv: a picture's answer and its copy, or the reason why it was not copied."""

    path: str  # absolute, escaped
    label: str = ""  # the class name
    probability: str = ""  # 0 to 1
    sure: str = ""  # true or false
    copy: str = ""  # path in the folder of answers.csv, with forward slashes
    reason: str = ""  # why there is no copy
    size: str = ""  # of the picture, bytes
    modified: str = ""  # time of the picture's last change, nanoseconds since 1970


def check(folder: str, given: Iterable[str], files: Iterable[Path]) -> None:
    """Make the folder of --sort-into if it is missing. Raises UserError if pictures can't be sorted into it.

    given: files, folders and patterns of the command line. files: the pictures found there.
    """
    name = f"{OPTION} {printable(folder)}"
    for each in (path for pattern in given for path in expanded(pattern) if path.is_dir()):
        if folder and _is_inside(folder, each):
            raise UserError(f"{name}: is in {printable(each)}, which is to be sorted; {OTHER_PLACE}")
        if folder and _is_inside(each, folder):
            raise UserError(f"{name}: holds {printable(each)}, which is to be sorted; {OTHER_PLACE}")
    for parent in {each.parent for each in files}:
        if folder and _is_inside(parent, folder):
            raise UserError(f"{name}: holds pictures that are to be sorted, in {printable(parent)}; {OTHER_PLACE}")
        # refuses inbox/*.png with inbox/sorted, but not *.png with sorted, which people type in the folder of pictures
        if folder and _is_inside(folder, parent) and not (_is_inside(folder, ".") and _is_inside(".", parent)):
            raise UserError(f"{name}: is in {printable(parent)}, which holds pictures to be sorted; {OTHER_PLACE}")
    answers = check_output_folder(folder, OPTION) / ANSWERS
    if answers.is_symlink():
        raise UserError(f"{OPTION} {printable(answers)}: is a link; remove it, or {OTHER_PLACE}")
    check_output(answers, OPTION, (".csv",))
    _read(answers)


def _is_inside(path: str | Path, folder: str | Path) -> bool:
    # True if `path` is `folder` or below it, neither of which needs to exist. The system compares the folders, so that
    # links, and the case of letters where it doesn't count, hide nothing.
    real = Path(os.path.realpath(path))
    return os.path.isdir(folder) and any(
        os.path.samefile(each, folder) for each in (real, *real.parents) if os.path.exists(each)
    )


def _read(answers: Path) -> list[Row]:
    # The rows of answers.csv without a last one that was cut off. Raises UserError if predict.py did not write it.
    try:
        with answers.open("r+b") as file:  # rows will be written to it, too
            titles, *rows = csv_rows(file.read()) or [Row._fields]
    except FileNotFoundError:
        return []
    except (OSError, csv.Error) as error:
        reason = getattr(error, "strerror", None) or error
        raise UserError(f"{OPTION} {printable(answers)}: can't be used ({reason}); {OTHER_PLACE}") from None
    if tuple(titles) != Row._fields:
        why = "was not written by predict.py --sort-into, or has been changed"
        raise UserError(f"{OPTION} {printable(answers)}: {why}; move it, or {OTHER_PLACE}")
    return [Row(*row) for row in rows if len(row) == len(Row._fields)]


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
    """Names for a file until one is free: cat.jpg, cat-1.jpg, cat-2.jpg, ..."""
    stem, suffix = os.path.splitext(name)
    yield name
    yield from (f"{stem}-{number}{suffix}" for number in itertools.count(1))


def class_folders(classes: Sequence[str]) -> list[str]:
    """The name of each class's folder: the class name if that is portable. No two are alike, whatever their case."""
    taken, folders = {UNSURE, ANSWERS}, [""] * len(classes)
    # a class whose name stays as it is comes first, so that no other class takes that folder
    for index in sorted(range(len(classes)), key=lambda index: portable(classes[index]) != classes[index]):
        names = numbered(portable(classes[index]))
        folders[index] = next(each for each in names if unicodedata.normalize("NFC", each).casefold() not in taken)
        taken.add(unicodedata.normalize("NFC", folders[index]).casefold())
    return folders


@contextlib.contextmanager
def sorting(folder: str | Path, classes: Sequence[str]) -> Iterator["Sorting"]:
    """A block that sorts pictures into `folder`, which no other command does meanwhile.

    classes: names by index. Raises UserError if another command sorts into it, or if the folder of a class is a link or
    a file; and Interrupted, with the advice to repeat the command, if a signal ends the block.
    """
    with locked(Path(folder) / ANSWERS, OPTION):
        current = Sorting(Path(folder), classes)
        with failures_explained(lambda: f"; {current.progress()}"):
            yield current


class Sorting:
    """Copies pictures into the folders of their classes and lists them in answers.csv; see sorting."""

    def __init__(self, folder: Path, classes: Sequence[str]) -> None:
        self.folder, self.answers = folder, folder / ANSWERS
        self.folders = class_folders(classes)
        for name in (*self.folders, UNSURE):
            path = folder / name
            if path.is_symlink() or path.exists() and not path.is_dir():  # a link may lead into the folder of pictures
                kind = "a link" if path.is_symlink() else "a file"
                raise UserError(f"{OPTION} {printable(path)}: is {kind}, not the folder of a class; {OTHER_PLACE}")
        self.rows = {row.copy or row.path: row for row in _read(self.answers)}  # a later row replaces an earlier one
        self.earlier = 0  # pictures that are skipped, because an earlier command has sorted them
        self.failed = 0  # pictures without an answer
        self.counts: Counter[str] = Counter()  # pictures sorted into each folder

    def begin(self, files: Iterable[Path], refused: Mapping[Path, str]) -> list[Path]:
        """The files that are still to be sorted, each once. refused: files that won't be read, and why."""
        paths = {_text(path): path for path in files}
        left = dict(paths)
        for row in list(self.rows.values()):
            if row.path not in paths:
                continue
            copy = self._place_of(row)
            if copy != row.copy or not copy:  # moved, removed, or the picture could not be read
                del self.rows[row.copy or row.path]
            if copy:
                self.rows[copy] = row._replace(copy=copy)
                if (row.size, row.modified) == _state(paths[row.path]):
                    left.pop(row.path, None)
        self.earlier = len(paths) - len(left)
        self._tidy()
        for path, reason in refused.items():
            self._fail(path, reason)
        return list(left.values())

    def sort(self, readings: Iterable["Reading"]) -> Iterator["Reading"]:
        """The readings, each of one picture, after that has been copied and listed.

        A picture that can't be read for copying is yielded without an answer. Raises RunError if nothing more can be
        written.
        """
        for reading in readings:
            path, reason = reading.source.path, reading.reason
            try:
                state = _state(path)
                content = path.read_bytes() if reading.answers else b""
            except OSError as error:
                reason = f"can't be read ({error.strerror or error})"
            try:
                if reason:
                    self._fail(path, reason)
                    reading = replace(reading, answers=(), reason=reason)
                else:
                    (answer,) = reading.answers
                    folder = self.folders[answer.top[0].index] if answer.is_sure else UNSURE
                    copy = self._copy(path, content, folder)
                    sure, probability = str(answer.is_sure).lower(), f"{answer.probability:.4f}"
                    self._append(Row(_text(path), answer.label, probability, sure, copy, "", *state))
                    self.counts[folder] += 1
            except OSError as error:
                place = printable(error.filename or self.folder)
                raise RunError(f"{place}: {error.strerror or error}; {self.progress()}") from None
            yield reading
        self._tidy()

    def _place_of(self, row: Row) -> str:
        # Where a row's copy is: in its place, or moved by hand into another folder of this one; empty if nowhere.
        if not row.copy or (self.folder / row.copy).is_file():
            return row.copy
        for path in self.folder.glob(f"*/{glob.escape(Path(row.copy).name)}"):
            copy = path.relative_to(self.folder).as_posix()
            if _state(path)[0] == row.size and copy not in self.rows:  # not another picture's copy
                return copy
        return ""

    def _copy(self, path: Path, content: bytes, folder: str) -> str:
        # Copy a picture to a free name. A copy that answers.csv lacks, because a command ended before writing the row,
        # is taken for this picture's if it is equal.
        text = _text(path)

        def is_usable(copy: str) -> bool:
            if copy in self.rows and self.rows[copy].path != text:
                return False
            return not os.path.lexists(self.folder / copy) or _holds(self.folder / copy, content)

        copy = next(filter(is_usable, (f"{folder}/{name}" for name in numbered(portable(path.name)))))
        target = self.folder / copy
        if not target.exists():
            make_folder(target.parent)
            write_file(target, lambda: content)
        with contextlib.suppress(OSError):  # some file systems keep no time stamps or permissions
            shutil.copystat(path, target)
        return copy

    def _fail(self, path: Path, reason: str) -> None:
        self.failed += 1
        self._append(Row(_text(path), reason=reason))

    def _append(self, row: Row) -> None:
        self.rows[row.copy or row.path] = row
        with self.answers.open("ab") as file:
            file.write(csv_bytes([row]).removeprefix(codecs.BOM_UTF8))

    def _tidy(self) -> None:
        # write answers.csv anew if it is missing, ends in a part of a row, or has rows that later ones replace
        content = csv_bytes([Row._fields, *self.rows.values()])
        if not self.answers.exists() or self.answers.read_bytes() != content:
            write_file(self.answers, lambda: content)

    def progress(self) -> str:
        """A message for a command that ends early."""
        count = self.counts.total()
        return f"{count:,} picture{'s are' if count != 1 else ' is'} sorted, and the same command sorts the rest"

    def summary(self) -> str:
        """The numbers of pictures in one line."""
        count, listed = self.counts.total(), self.counts.most_common(MAX_CLASSES)
        unsure = [(name, number) for name, number in listed if name == UNSURE]
        parts = [f"{number:,} {name}" for name, number in [each for each in listed if each[0] != UNSURE] + unsure]
        more = len(self.counts) - len(listed)
        parts += [f"more in {more:,} other folders"] if more else []
        text = f"sorted {count:,} picture{'s' * (count != 1)} into {printable(self.folder)}"
        text += f": {', '.join(map(printable, parts))}" if parts else ""
        text += f"; {self.earlier:,} had been sorted before" if self.earlier else ""
        text += f"; {self.failed:,} got no answer" if self.failed else ""
        return f"{text}; {printable(self.answers)} lists them"


def _text(path: Path) -> str:
    # A picture's path in answers.csv: links of its folder are resolved, for the folder may be named in several ways.
    return escaped(os.path.join(os.path.realpath(path.parent), path.name))


def _state(path: Path) -> tuple[str, str]:
    # Size and time of the last change, as in a Row. They tell a new picture from one of the same name.
    try:
        found = path.stat()
    except OSError:
        return "", ""
    return str(found.st_size), str(found.st_mtime_ns)


def _holds(file: Path, content: bytes) -> bool:
    # True if this is a file, not a link, with that content
    with contextlib.suppress(OSError):
        is_file = file.is_file() and not file.is_symlink()
        return is_file and file.stat().st_size == len(content) and file.read_bytes() == content
    return False
