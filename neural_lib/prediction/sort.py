"""--sort-into of predict.py: copies of the pictures in a folder for each class, and answers.csv, which lists them.

answers.csv gets its row as soon as a picture has been copied; the same command reads it and sorts the rest.
"""

import contextlib
import glob
import shutil
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from neural_lib.prediction.folders import (
    UNSURE,
    Table,
    check_class_folder,
    check_folder,
    class_folders,
    path_text,
    place_file,
    portable,
)
from neural_lib.system.cli import failures_explained
from neural_lib.system.errors import RunError, printable
from neural_lib.system.files import locked

if TYPE_CHECKING:
    from neural_lib.prediction.recogniser import Reading

OPTION = "--sort-into"
ANSWERS = "answers.csv"
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
    check_folder(folder, OPTION, given, files, "sorted")
    _table(Path(folder)).check()


def _table(folder: Path) -> Table[Row]:
    return Table(folder / ANSWERS, Row, OPTION)


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
        self.folder, self.answers = folder, _table(folder)
        self.folders = class_folders(classes)
        for name in (*self.folders, UNSURE):
            check_class_folder(folder / name, OPTION)
        self.rows = {row.copy or row.path: row for row in self.answers.read()}  # a later row replaces an earlier one
        self.earlier = 0  # pictures that are skipped, because an earlier command has sorted them
        self.failed = 0  # pictures without an answer
        self.counts: Counter[str] = Counter()  # pictures sorted into each folder

    def begin(self, files: Iterable[Path], refused: Mapping[Path, str]) -> list[Path]:
        """The files that are still to be sorted, each once. refused: files that won't be read, and why."""
        paths = {path_text(path): path for path in files}
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
        self.answers.tidy(self.rows.values())
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
                    self._append(Row(path_text(path), answer.label, probability, sure, copy, "", *state))
                    self.counts[folder] += 1
            except OSError as error:
                place = printable(error.filename or self.folder)
                raise RunError(f"{place}: {error.strerror or error}; {self.progress()}") from None
            yield reading
        self.answers.tidy(self.rows.values())

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
        # Copy a picture to a free name.
        text = path_text(path)

        def is_taken(copy: str) -> bool:
            return copy in self.rows and self.rows[copy].path != text

        copy = place_file(self.folder, f"{folder}/{portable(path.name)}", content, is_taken)
        with contextlib.suppress(OSError):  # some file systems keep no time stamps or permissions
            shutil.copystat(path, self.folder / copy)
        return copy

    def _fail(self, path: Path, reason: str) -> None:
        self.failed += 1
        self._append(Row(path_text(path), reason=reason))

    def _append(self, row: Row) -> None:
        self.rows[row.copy or row.path] = row
        self.answers.append([row])

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
        return f"{text}; {printable(self.answers.path)} lists them"


def _state(path: Path) -> tuple[str, str]:
    # Size and time of the last change, as in a Row. They tell a new picture from one of the same name.
    try:
        found = path.stat()
    except OSError:
        return "", ""
    return str(found.st_size), str(found.st_mtime_ns)
