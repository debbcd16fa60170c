"""--collect of predict.py: the characters on sheets, each a picture in the folder of its label, and sheets.csv.

sheets.csv is replaced, with all rows of a scan, once its pictures are written; the same command reads it and collects
the rest.
"""

import logging
import os
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
from tqdm import tqdm

from neural_lib.data import pictures
from neural_lib.data.page import Character
from neural_lib.data.pictures import PictureError, PictureFiles, listed
from neural_lib.data.sheet import (
    BOX,
    LONGEST_SIDE,
    MAX_PER_PAGE,
    Sheet,
    SheetPage,
    find_sheets,
    is_same_sheet,
    read_boxes,
    sketch_of,
)
from neural_lib.evaluation import annotate
from neural_lib.prediction.folders import (
    Table,
    check_class_folder,
    check_folder,
    class_folders,
    folded,
    numbered,
    path_text,
    place_file,
    portable,
)
from neural_lib.system.cli import failures_explained
from neural_lib.system.errors import RunError, printable
from neural_lib.system.files import locked, sha256_of

OPTION = "--into"
SHEETS = "sheets.csv"
LONGEST_STEM = 150  # bytes of a file's name before the box's number
MARGIN = 6  # white around a box, pixels
EMPTY, CROSSED_OUT = "empty", "crossed out"

log = logging.getLogger(__name__)


class Row(NamedTuple):
    """A row of sheets.csv: a box and the picture of its character, or the reason why there is none."""

    file: str = ""  # path in the folder of sheets.csv, with forward slashes
    label: str = ""
    sheet: str = ""  # its name in the names of files; none if the scan shows no sheet that can be used
    page: str = ""  # of the sheet, from 1
    number: str = ""  # of the box
    reason: str = ""  # why there is no picture
    scan: str = ""  # absolute path, escaped
    picture: str = ""  # page of the scan's file, from 1
    sha256: str = ""  # of the scan's content


class Known(NamedTuple):
    """A sheet that was collected."""

    shown: str  # the scan's path for messages
    labels: dict[int, str]  # of each box by number, which is counted on from page to page
    files: dict[int, str]  # the picture of each box's character


def collect(given: Sequence[str], recursive: bool, into: str) -> None:
    """Collect the characters on the sheets that pictures show, into a folder for each label in `into`.

    given: files, folders and patterns. recursive: look into subfolders, too. What can't be used gets a warning. Raises
    UserError if pictures can't be collected into that folder, and RunError if none can be written, or there is none.
    """
    to_read = pictures.find(given, recursive, is_excluded=annotate.is_montage)
    table = Table(Path(into) / SHEETS, Row, OPTION, is_appended=False)
    check_folder(into, OPTION, given, to_read.files, "read")
    table.check()
    for line in to_read.problems():
        log.warning("%s", line)
    if not to_read.files:
        raise RunError("there is no picture to read; name scans of sheets, or folders that hold them")
    with locked(table.path, OPTION):
        collection = Collection(table)
        try:
            with failures_explained(lambda: f"; {collection.progress()}"):
                collection.add_all(to_read, given)
        except OSError as error:
            place = printable(error.filename or table.path)
            raise RunError(f"{place}: {error.strerror or error}; {collection.progress()}") from None
    if not collection.characters and not collection.earlier:
        where = f"{printable(table.path)} lists them" if table.path.exists() else "see the warnings above"
        raise RunError("; ".join(filter(None, ["no character was collected", collection.counted(), where])))
    log.info("%s", collection.summary())


class Collection:
    """The characters in a folder, and the rows of sheets.csv, to which those of new scans are added."""

    def __init__(self, table: Table[Row]) -> None:
        self.table, self.folder = table, table.path.parent
        self.rows: dict[str, list[Row]] = {}  # sha256 of a scan, or its path if it could not be read -> its rows
        for row in table.read():
            self.rows.setdefault(row.sha256 or row.scan, []).append(row)
        every = [row for rows in self.rows.values() for row in rows]
        self.files = {folded(row.file) for row in every}
        self.folders = {row.label: row.file.partition("/")[0] for row in every if row.file}  # of each label
        self.names = {folded(row.sheet) for row in every}  # of sheets
        self.known: dict[str, Known] = {}  # by the sheets' names
        for row in every:
            self._note(row, row.scan)
        self.sketches: dict[str, dict[int, np.ndarray]] = {}  # of known sheets that were compared
        self.moved: dict[str, Path] | None = None  # name of each picture -> where it is
        self.listed = 0  # sheets in sheets.csv
        self.earlier = 0  # scans that are skipped, because an earlier command has collected them
        self.sheets = self.twins = self.failed = 0  # sheets; those that were collected before; pictures without one
        self.characters: Counter[str] = Counter()  # by label
        self.left_out: Counter[str] = Counter()  # boxes, by reason

    def add_all(self, to_read: PictureFiles, given: Sequence[str]) -> None:
        """Collect from all files; what is in the way of one is a warning."""
        files = {path_text(path): path for path in to_read.files}
        scans, reasons = [], {path: reason for path, reason in to_read.refused().items()}
        for text, path in files.items():
            self.rows.pop(text, None)
            try:
                scans.append((path, sha256_of(path)))
            except OSError as error:
                reasons[path] = f"can't be read ({error.strerror or error})"
                log.warning("%s: %s", printable(path), reasons[path])
        for _, key in scans:  # those without a sheet are tried again
            if not any(row.sheet for row in self.rows.get(key, [])):
                self.rows.pop(key, None)
        existing = {path: reason for path, reason in reasons.items() if os.path.lexists(path)}
        refused = {path_text(path): [Row(reason=reason, scan=path_text(path))] for path, reason in existing.items()}
        self.rows |= refused
        self.failed += len(refused)
        if not scans and not self.table.path.exists():  # such as a path that was misspelt: nothing to list
            return
        self._tidy()
        first: dict[str, Path] = {}  # sha256 -> the file that has it
        with tqdm(scans, unit=" files", leave=False, disable=None, dynamic_ncols=True) as progress:
            for path, key in progress:
                if key in first:
                    log.warning("%s: is a copy of %s; left out", printable(path), printable(first[key]))
                    continue
                first[key] = path
                if key in self.rows:
                    self.earlier += 1
                else:
                    self.rows[key] = self._collect_scan(path, key, _name_of(path, given))
                    self._tidy()
        renamed = [f"{folder} for {label}" for label, folder in self.folders.items() if folder != label]
        if renamed:
            log.info("folders that can't be called as their label: %s", listed(sorted(renamed)))

    def _collect_scan(self, path: Path, key: str, stem: str) -> list[Row]:
        # The rows of a scan, after its characters were written.
        rows, count = [], pictures.count_pages(path)
        for number in range(count):
            shown = f"{path}[{number + 1}]" if count > 1 else str(path)
            name = f"{stem}-{number + 1}" if count > 1 else stem
            origin = Row(scan=path_text(path), picture=str(number + 1), sha256=key)
            usable, reasons = _sheets_on(path, number)
            rows += [origin._replace(reason=reason) for reason in reasons]
            self.failed += not usable
            for place, sheet in enumerate(usable, start=1):
                own = self._free_name(f"{name}-{place}" if len(usable) > 1 else name)
                found = self._collect_sheet(sheet, origin._replace(sheet=own, page=str(sheet.page.number)), shown)
                rows += found
                reasons += [row.reason for row in found if not row.number]
            if reasons:
                log.warning("%s: %s", printable(shown), "; ".join(dict.fromkeys(reasons)))
        return rows

    def _collect_sheet(self, sheet: Sheet, origin: Row, shown: str) -> list[Row]:
        # The rows of a sheet, after its characters were written; one without a number if it is known from another scan.
        page, name, boxes = sheet.page, origin.sheet, read_boxes(sheet)
        images = {
            box.number: cut_out(box.character, place)
            for box, place in zip(boxes, sheet.boxes, strict=True)
            if box.character and not box.is_crossed_out
        }
        sketches = {number: sketch_of(image) for number, image in images.items()}
        if twin := self._twin_of(page, sketches):
            self.twins += 1
            return [origin._replace(reason=f"shows the same sheet as {self.known[twin].shown}; left out")]
        self._open_folders(page.labels)
        rows, digits = [], max(3, len(str(page.pages * MAX_PER_PAGE)))
        for box in boxes:
            file, reason = "", CROSSED_OUT if box.character else EMPTY
            if box.number in images:
                file, reason = f"{self.folders[box.label]}/{name}-{box.number:0{digits}}.png", ""
                content = cv2.imencode(".png", images[box.number])[1].tobytes()
                file = place_file(self.folder, file, content, lambda each: folded(each) in self.files)
                self.files.add(folded(file))
                self.characters[box.label] += 1
            else:
                self.left_out[reason] += 1
            row = origin._replace(file=file, label=box.label, number=str(box.number), reason=reason)
            rows.append(row)
            self._note(row, shown)
        self.sheets += 1
        self.sketches[name] = sketches
        return rows

    def _note(self, row: Row, shown: str) -> None:
        # add a row of a box to the known sheets
        if row.sheet and row.number.isdecimal():
            sheet = self.known.setdefault(row.sheet, Known(shown, {}, {}))
            sheet.labels[int(row.number)] = row.label
            if row.file:
                sheet.files[int(row.number)] = row.file

    def _twin_of(self, page: SheetPage, sketches: Mapping[int, np.ndarray]) -> str:
        # The name of a known sheet with the same code and ink; "" if there is none.
        labels = {number: page.label(number) for number in page.numbers}
        for name, known in self.known.items():
            if known.labels.items() <= labels.items():
                if name not in self.sketches:
                    self.sketches[name] = self._read_sketches(known)
                pictures_deleted = known.files.keys() - self.sketches[name].keys()
                rows_deleted = labels.keys() - known.labels.keys()
                if is_same_sheet(sketches, self.sketches[name], pictures_deleted | rows_deleted):
                    return name
        return ""

    def _read_sketches(self, known: Known) -> dict[int, np.ndarray]:
        # of the pictures that are still in the folder, or were moved by hand into another one there
        if self.moved is None:
            self.moved = {path.name: path for path in self.folder.rglob("*.png")}
        sketches = {}
        for number, file in known.files.items():
            path = self.folder / file
            path = path if path.is_file() else self.moved.get(path.name, path)
            try:
                sketches[number] = sketch_of(pictures.read_picture(path)[..., 0])
            except PictureError:
                continue
        return sketches

    def _free_name(self, name: str) -> str:
        name = next(each for each in numbered(name) if folded(each) not in self.names)
        self.names.add(folded(name))
        return name

    def _open_folders(self, labels: Iterable[str]) -> None:
        # choose the folders of labels
        labels = list(dict.fromkeys(labels))
        self.folders |= zip(labels, class_folders(labels, self.folders), strict=True)
        for label in labels:
            check_class_folder(self.folder / self.folders[label], OPTION)

    def _tidy(self) -> None:
        rows = [row for rows in self.rows.values() for row in rows]
        self.table.tidy(rows)
        self.listed = len({row.sheet for row in rows if row.number})

    def progress(self) -> str:
        """A message for a command that ends early."""
        what = "1 sheet is" if self.listed == 1 else f"{self.listed:,} sheets are"
        return f"{what} collected, and the same command collects the rest"

    def counted(self) -> str:
        """The numbers of what was not collected."""
        parts = [", ".join(f"{self.left_out[reason]:,} {reason}" for reason in (EMPTY, CROSSED_OUT))]
        parts = parts if self.left_out else []
        parts += [f"{self.twins:,} sheet{'s' * (self.twins > 1)} photographed twice"] if self.twins else []
        parts += [f"{self.failed:,} picture{'s' * (self.failed > 1)} without a sheet"] if self.failed else []
        parts += [f"{self.earlier:,} had been read before"] if self.earlier else []
        return "; ".join(parts)

    def summary(self) -> str:
        """All numbers in one line."""
        total, labels = self.characters.total(), len(self.characters)
        text = f"collected {total:,} character{'s' * (total != 1)}"
        if total:
            text += f" of {labels:,} label{'s' * (labels > 1)} from {self.sheets:,} sheet{'s' * (self.sheets > 1)}"
        return "; ".join(filter(None, [text, self.counted(), f"{printable(self.table.path)} lists them"]))


def _name_of(path: Path, given: Iterable[str]) -> str:
    # The name of a scan's sheet: that of the file, after those of the folders below a given one.
    folders = (folder for each in given for folder in pictures.expanded(each) if folder.is_dir())
    inner = next((path.relative_to(each) for each in folders if path.is_relative_to(each)), Path(path.name))
    name = portable("-".join(inner.with_suffix("").parts))
    return name.encode()[:LONGEST_STEM].decode(errors="ignore")


def _sheets_on(path: Path, number: int) -> tuple[list[Sheet], list[str]]:
    # The sheets on a page of a file from which characters can be collected, and why from the rest none can.
    try:
        found = find_sheets(pictures.read_picture(path, number, LONGEST_SIDE))
    except PictureError as error:
        return [], [str(error)]
    if not found:
        return [], ["shows no sheet; the markers in its corners must be seen"]
    reasons = [
        each.reason
        if not each.page
        else ""
        if each.page.labels
        else "shows an answer sheet, whose boxes have no labels; --key marks it"
        for each in found
    ]
    usable = [each for each, reason in zip(found, reasons, strict=True) if not reason]
    return usable, list(dict.fromkeys(filter(None, reasons)))


def cut_out(character: Character, box: np.ndarray) -> np.ndarray:
    """The picture of a box: its ink, dark on white, in its place, without lines and paper; uint8 (S, S).

    box: left, top, width, height. Ink that runs over the box's lines is kept: the picture is larger then.
    """
    middle = np.array(box[:2]) + np.array(box[2:]) / 2
    start = np.array(character.box[:2])
    end = start + character.ink.shape[::-1]
    half = MARGIN + max(BOX / 2, np.abs([start - middle, end - middle]).max())
    side = 2 * int(np.ceil(half))
    left, top = np.round(start - middle + side / 2).astype(int)
    picture = np.zeros((side, side), np.float32)
    picture[top : top + character.ink.shape[0], left : left + character.ink.shape[1]] = character.ink
    return np.round(255 * (1 - picture)).astype(np.uint8)
