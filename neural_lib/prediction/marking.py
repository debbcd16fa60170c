"""--key of predict.py: the characters of pages compared with those expected; marks in tables and on annotated pages.

A sure answer is right or wrong. If it isn't sure, or the expected character is not improbable enough, it is never
counted as either: somebody has to look at it. A page is compared only if it is certain which of its characters belongs
to which number of the key.
"""

import contextlib
import csv
import logging
import os
import shutil
import sys
import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from rich.cells import cell_len, set_cell_size
from tqdm import tqdm

from neural_lib.data.catalog import title_of
from neural_lib.data.ink import to_grey
from neural_lib.data.pictures import PictureError, PictureFiles, count_pages, listed, read_picture, reduced
from neural_lib.data.sheet import LONGEST_SIDE, Sheet, find_sheets, is_same_sheet, labels_in, sketch_of
from neural_lib.evaluation import annotate
from neural_lib.prediction.folders import class_folders, folded, numbered, portable
from neural_lib.system.cli import failures_explained
from neural_lib.system.errors import RunError, UserError, escaped, printable
from neural_lib.system.files import (
    begins_with,
    check_input,
    check_output,
    check_output_folder,
    csv_bytes,
    csv_rows,
    remove_abandoned,
    write_file,
)

if TYPE_CHECKING:
    from neural_lib.checkpoint import Checkpoint
    from neural_lib.prediction.recogniser import Answer, Recogniser

OPTION, FOLDER = "--key", "marks"  # FOLDER: where the marks are written by default
EXPECTED, NUMBER = ("expected", "label", "character"), "number"  # titles of the key's columns
RIGHT, WRONG, UNSURE, EMPTY = MARKS = ("right", "wrong", "unsure", "empty")
IN_WORDS = {UNSURE: "to be looked at"}
COLOURS = {
    RIGHT: annotate.DARK_GREEN, WRONG: annotate.DARK_RED, UNSURE: annotate.DARK_AMBER, EMPTY: annotate.DARK_GREY,
}  # fmt: skip
TABLES = {
    "marks.csv": ("file", "number", "expected", "read", "probability", "mark"),
    "pages.csv": ("file", "annotated", *MARKS, "numbers", "remark"),
    "characters.csv": ("character", *MARKS, "numbers", "read as"),
}
INSET = 0.05  # share of its side by which a printed box is drawn smaller, so that its text hides no other box
# A sure answer is wrong only if the expected class is less probable than this. Higher, more right characters that are
# misread are marked wrong; lower, more wrong ones are left to be looked at.
WRONG_BELOW = 0.005
MAX_ROWS = 40  # characters in the table on the terminal; characters.csv has all
MIN_PATH = 20  # columns of the terminal

log = logging.getLogger(__name__)


# --- the key and the files, before torch is loaded ---


class KeyRow(NamedTuple):
    """A row of the key."""

    row: int  # of the file, from 1
    number: int
    text: str  # the expected character: a class's name or its written form


def read_key(path: str) -> list[KeyRow]:
    """The rows of a key, ordered by number. Raises UserError if it can't be read, is empty or has a number twice.

    path: a table with a column titled as in EXPECTED, perhaps one titled NUMBER; or without titles one column of
    characters, perhaps after one of numbers, or all characters on one line. Commas, semicolons or tabs separate
    columns, only tabs in a .txt file. Without numbers the rows are counted, so none of them may be empty.
    """
    name = f"{OPTION} {printable(path)}"
    check_input(path, OPTION, "give a table or a text file of the expected characters")
    try:
        content = Path(path).read_bytes()
        text = content.decode("utf-8-sig")
        delimiter = max(",;\t", key=text.partition("\n")[0].count)
        is_text = Path(path).suffix.lower() == ".txt"
        rows = [line.split("\t") for line in text.splitlines()] if is_text else csv_rows(content, delimiter)
    except OSError as error:
        raise UserError(f"{name}: can't be read ({error.strerror or error})") from None
    except (UnicodeDecodeError, csv.Error):
        raise UserError(f"{name}: is no text in UTF-8; save it as a CSV file in UTF-8") from None
    cells = [[unicodedata.normalize("NFC", cell.strip()) for cell in row] for row in rows]
    while cells and not any(cells[-1]):
        cells.pop()
    titles = [cell.casefold() for cell in cells[0]] if cells else []
    is_line = len(cells) == 1 and len(list(filter(None, titles))) != 2  # two are a number and a character
    if is_line and not {*EXPECTED} & {*titles}:
        cells = [[each] for each in labels_in(" ".join(cells[0]))]
    column = next((titles.index(each) for each in EXPECTED if each in titles), None)
    first, number_at = 0, None
    if column is not None:
        first, number_at = 1, titles.index(NUMBER) if NUMBER in titles else None
    elif cells:
        width = max(index for row in cells for index, cell in enumerate(row, start=1) if cell)
        if width > 2:
            raise UserError(f"{name}: has {width} columns, and none has the title {EXPECTED[0]}")
        column, number_at = width - 1, 0 if width == 2 else None
    found = []
    for row, values in enumerate(cells[first:], start=first + 1):
        expected, number = (values[at] if at is not None and at < len(values) else "" for at in (column, number_at))
        if number_at is not None and not any(values):
            continue
        if not expected:
            raise UserError(f"{name}: row {row} has no character")
        if number_at is None:
            number = str(row - first)
        elif not number.isdecimal() or int(number) < 1:
            advice = "" if first else f"; title the columns {NUMBER} and {EXPECTED[0]}"
            raise UserError(f"{name}: row {row} has {number!r} in place of a number from 1{advice}")
        found.append(KeyRow(row, int(number), expected))
    if not found:
        raise UserError(f"{name}: has no characters")
    for number, count in Counter(each.number for each in found).items():
        if count > 1:
            twice = [str(each.row) for each in found if each.number == number]
            raise UserError(f"{name}: number {number} is given {count} times, in rows {listed(twice)}; give it once")
    return sorted(found, key=lambda each: each.number)


def labels_of(key: Sequence[KeyRow], path: str, saved: "Checkpoint") -> dict[int, int]:
    """The label that is expected for each number. Raises UserError if the network doesn't know a character."""
    labels = {unicodedata.normalize("NFC", name): label for name, label in saved.labels.items()}
    rows: dict[str, list[int]] = {}
    for each in key:
        if each.text not in labels:
            rows.setdefault(each.text, []).append(each.row)
    if rows:
        unknown = [f"{text} (row{'s' * (len(some) > 1)} {listed(list(map(str, some)))})" for text, some in rows.items()]
        known = listed([saved.display_name(label) for label in range(len(saved.classes))], 50)
        name = f"{OPTION} {printable(path)}"
        raise UserError(f"{name}: this network doesn't know {listed(unknown)}; it knows {known}")
    return {each.number: labels[each.text] for each in key}


def check_folder(folder: str) -> Path:
    """The folder of the marks, made if it is missing. Raises UserError if they can't be written there."""
    path = check_output_folder(folder, "--output")
    for name, titles in TABLES.items():
        table = check_output(path / name, "--output", (".csv",))
        if table.exists() and table.stat().st_size and not begins_with(table, ",".join(titles).encode()):
            why = "was not written by predict.py --key"
            raise UserError(f"--output {printable(table)}: {why}; move it, or choose another folder")
        remove_abandoned(table)
    return path


def check(key: str, folder: Path, found: PictureFiles) -> PictureFiles:
    """The pictures to mark, without annotated pages. Raises UserError if the key can't be used."""
    read_key(key)
    own = {os.path.realpath(each) for each in (key, *(folder / name for name in TABLES))}
    others = [path for path in found.skipped.get("", []) if os.path.realpath(path) not in own]
    skipped = {kind: paths for kind, paths in {**found.skipped, "": others}.items() if paths}
    return found._replace(files=[path for path in found.files if not annotate.is_montage(path)], skipped=skipped)


# --- pages as they were read ---


@dataclass
class Page:
    """A page and its characters by number."""

    name: str  # of the file, and of the page or the sheet in it
    stem: str  # of its annotated picture
    picture: np.ndarray | None = field(default=None, repr=False)  # RGB, uint8 (H, W, 3)
    boxes: dict[int, Sequence[float]] = field(default_factory=dict)  # of each number, pixels of the picture
    answers: dict[int, "Answer"] = field(default_factory=dict)  # of the numbers that are not empty
    sketches: dict[int, np.ndarray] = field(default_factory=dict, repr=False)  # by number, of a sheet with markers
    why_not: str = ""  # the reason if it can't be compared
    remark: str = ""  # what somebody should know besides

    def marks(self, key: dict[int, int]) -> dict[int, str]:
        """The mark of each number of the key that is on this page; none if it can't be compared."""
        return {} if self.why_not else {number: self._mark(number, key) for number in self.boxes if number in key}

    def _mark(self, number: int, key: dict[int, int]) -> str:
        answer = self.answers.get(number)
        if answer is None or not answer.is_sure:
            return EMPTY if answer is None else UNSURE
        if answer.top[0].index == key[number]:
            return RIGHT
        expected = next(each.probability for each in answer.top if each.index == key[number])
        return WRONG if expected < WRONG_BELOW else UNSURE


def _pages_of(recogniser: "Recogniser", path: Path, key: dict[int, int], invert: str, order: str) -> Iterator[Page]:
    # The pages of a file: each sheet with markers on it, or the page itself.
    count = count_pages(path)
    for number in range(count):
        name, stem = (f"{path}[{number + 1}]", f"{path.stem}-page-{number + 1}") if count > 1 else (path, path.stem)
        page = Page(str(name), stem)
        try:
            picture = read_picture(path, number, LONGEST_SIDE)
            sheets = find_sheets(picture)
            for at, sheet in enumerate(sheets, start=1):
                page = Page(f"{name}, sheet {at}", f"{stem}-sheet-{at}") if len(sheets) > 1 else page
                _read_sheet(recogniser, page, sheet, key)
                yield page
            if not sheets:
                _read_paper(recogniser, page, picture, key, invert, order)
                yield page
        except PictureError as error:
            page.why_not = str(error).removeprefix("the picture: ")
            yield page


def _read_sheet(recogniser: "Recogniser", page: Page, sheet: Sheet, key: dict[int, int]) -> None:
    if sheet.page is None:
        page.why_not = sheet.reason
        return
    numbers = sheet.page.numbers
    page.picture, page.boxes = sheet.picture, dict(zip(numbers, _inset(sheet.boxes), strict=True))
    answers = recogniser.read_page(sheet.picture, invert="yes", boxes=sheet.boxes, top=len(recogniser.saved.classes))
    page.answers = {numbers[each.place.number - 1]: each for each in answers}
    grey, places = to_grey(sheet.picture), np.round(sheet.boxes).astype(int)
    page.sketches = {
        number: sketch_of(grey[y : y + height, x : x + width])
        for number, (x, y, width, height) in zip(numbers, places, strict=True)
        if number in page.answers
    }
    labels = recogniser.saved.labels
    classes = dict(zip(sheet.page.labels, class_folders(sheet.page.labels), strict=True))  # names after --collect
    printed = {each: sheet.page.label(each) for each in numbers if each in key and sheet.page.labels}
    if any(key[each] not in (labels.get(label), labels.get(classes[label])) for each, label in printed.items()):
        page.why_not = "is no answer sheet: the characters printed on it are not the key's"
    elif not key.keys() & page.boxes.keys():
        page.why_not = f"has the numbers {numbers[0]} to {numbers[-1]}, none of which is in the key"
    elif beyond := page.answers.keys() - key.keys():
        page.remark = f"{_boxes(beyond)} not empty, but not in the key"
        log.warning("%s: %s", printable(page.name), page.remark)


def _read_paper(
    recogniser: "Recogniser", page: Page, picture: np.ndarray, key: dict[int, int], invert: str, order: str
) -> None:
    # A page without markers: in printed boxes these are counted, on plain paper the characters.
    page.picture = picture
    reading = recogniser.reading_of(picture, invert, order, top=len(recogniser.saved.classes))
    answers, boxes, page.why_not = reading.answers, reading.boxes, reading.reason
    if len(boxes):
        page.boxes, page.why_not = dict(enumerate(_inset(boxes), start=1)), ""  # all of them may be empty
        page.answers = {each.place.number: each for each in answers if each.place}
        missing, beyond = key.keys() - page.boxes.keys(), page.answers.keys() - key.keys()
        sizes = f"has {len(boxes)} boxes, and the key goes up to number {max(key)}"
        if missing:
            page.why_not = sizes
        elif beyond:
            page.why_not = f"{_boxes(beyond)} not empty, but not in the key"
        elif len(boxes) > max(key):  # one for the grade, above the others, would shift all numbers
            page.remark = f"{sizes}: see whether box 1 is the first one"
            log.warning("%s: %s", printable(page.name), page.remark)
        return
    if not answers:
        return
    heading = _heading(answers, key, order)
    if heading:
        lines = answers[heading - 1].place.row if order == "rows" else answers[heading - 1].place.column
        which = "the first line is" if lines == 1 else f"the first {lines} lines are"
        page.remark = f"{which} taken for a heading ({heading} character{'s' * (heading > 1)})"
        log.info("%s: %s", printable(page.name), page.remark)
    elif len(answers) != len(key):
        page.why_not = f"has {len(answers)} character{'s' * (len(answers) != 1)}, and the key has {len(key)}"
    numbers = range(1, len(answers) + 1) if page.why_not else sorted(key)
    whole = (0, 0, picture.shape[1], picture.shape[0])  # of a single character the whole picture may have been read
    page.answers = dict(zip(numbers, answers[heading:], strict=True))
    page.boxes = {number: each.box or whole for number, each in page.answers.items()}


def _inset(boxes: Sequence[Sequence[float]]) -> list[tuple[float, ...]]:
    return [(x + INSET * w, y + INSET * h, w - 2 * INSET * w, h - 2 * INSET * h) for x, y, w, h in boxes]


def _heading(answers: Sequence["Answer"], key: dict[int, int], order: str) -> int:
    # The number of characters in the first lines that are left out; 0 to leave out none. The rest must be as many as
    # the key's, and agree with it better than the first characters do.
    count = len(answers) - len(key)
    if count <= 0 or any(each.place is None for each in answers):
        return 0
    lines = [each.place.row if order == "rows" else each.place.column for each in answers]
    if lines[count - 1] == lines[count]:
        return 0
    expected = [key[number] for number in sorted(key)]

    def right(some: Sequence["Answer"]) -> int:
        return sum(each.is_sure and each.top[0].index == label for each, label in zip(some, expected, strict=False))

    return count if right(answers[count:]) > right(answers) else 0


def _boxes(numbers: Iterable[int]) -> str:
    numbers = set(numbers)
    return f"box{'es' * (len(numbers) > 1)} {_ranges(numbers)} {'are' if len(numbers) > 1 else 'is'}"


def _ranges(numbers: Iterable[int]) -> str:
    # "3, 7 to 12" and so on; of many ranges the first.
    ranges: list[list[int]] = []
    for number in sorted(numbers):
        if ranges and number == ranges[-1][-1] + 1:
            ranges[-1] = [ranges[-1][0], number]
        else:
            ranges.append([number])
    return listed([" to ".join(map(str, each)) for each in ranges])


# --- marks ---


def mark_pictures(
    recogniser: "Recogniser", to_read: PictureFiles, key_path: str, folder: Path, invert: str, order: str
) -> None:
    """Compare each page with the key; write TABLES and an annotated picture of each page into the folder.

    invert, order: of pages without markers, see Recogniser.read_page. A page that can't be compared gets a warning.
    Raises UserError if the key or the network can't be used, and RunError if no page was marked.
    """
    saved = recogniser.saved
    if not recogniser.reads_pages:
        title = title_of(saved.dataset)
        raise UserError(f"{OPTION}: this network knows {title}, and only written characters can be marked")
    key = labels_of(read_key(key_path), key_path, saved)
    for line in to_read.problems():
        log.warning("%s", line)
    if not to_read.files:
        raise RunError("there is no picture to mark; name files, or folders that hold pictures")
    marking = Marking(saved, key, folder)
    longest = max(cell_len(printable(path)) for path in to_read.files) + len(", sheet 1")
    table = _Table(("page", *MARKS, "of"), longest)
    with failures_explained(lambda: f"; {marking.progress()}"), contextlib.ExitStack() as stack:
        stack.callback(marking.write_tables)  # whatever happens
        files = stack.enter_context(tqdm(to_read.files, unit=" files", leave=False, disable=None, dynamic_ncols=True))
        for path in files:
            for page in _pages_of(recogniser, path, key, invert, order):
                counts = marking.add(page)
                if page.why_not:
                    log.warning("%s: not marked: %s", printable(page.name), page.why_not)
                else:
                    _print(table.format(printable(page.name), *_figures(counts)))
    marking.summarise()


def _print(text: str) -> None:
    tqdm.write(text, file=sys.stdout)  # makes room beside the progress bar
    sys.stdout.flush()


class Marking:
    """Counts the marks of pages, and writes the files; see mark_pictures. key: number -> label."""

    def __init__(self, saved: "Checkpoint", key: dict[int, int], folder: Path) -> None:
        self.saved, self.key, self.folder = saved, key, folder
        self.names = saved.glyphs or saved.classes
        self.marks: list[tuple] = []  # rows of marks.csv
        self.pages: list[tuple] = []  # rows of pages.csv
        self.marked = 0  # pages that were compared
        self.missing = set(key)  # numbers that were on no page
        self.characters: dict[int, Counter[str]] = {label: Counter() for label in sorted(set(key.values()))}
        self.misread: dict[int, Counter[int]] = {label: Counter() for label in self.characters}
        self.sketches: dict[str, dict[int, np.ndarray]] = {}  # sketches of each sheet, by the page's name
        self.taken: set[str] = set()  # names of annotated pictures, folded

    def add(self, page: Page) -> Counter[str]:
        """Write the annotated picture of a page; returns how often it has each mark."""
        marks, annotated = page.marks(self.key), ""
        twin = self._twin_of(page) if marks else ""
        if twin:
            twice = f"looks like the same sheet as {printable(twin)}; both are counted, so leave one out if it is"
            page.remark = "; ".join(filter(None, [page.remark, twice]))
            log.warning("%s: %s", printable(page.name), twice)
        if page.picture is not None and (marks or page.answers):
            annotated = self._free_name(page.stem)
            annotate.write_picture(self.folder / annotated, self._draw(page, marks))
        for number, mark in marks.items():
            label, answer = self.key[number], page.answers.get(number)
            read = (self.names[answer.top[0].index], f"{answer.probability:.4f}") if answer else ("", "")
            self.marks.append((escaped(page.name), number, self.names[label], *read, mark))
            self.characters[label][mark] += 1
            self.misread[label].update([answer.top[0].index] if mark == WRONG else [])
        self.sketches |= {page.name: page.sketches} if marks else {}
        counts = Counter(marks.values())
        remark = f"not marked: {page.why_not}" if page.why_not else page.remark
        figures = [""] * (len(MARKS) + 1) if page.why_not else _figures(counts)  # no page with 0 right
        self.pages.append((escaped(page.name), annotated, *figures, remark))
        self.marked += not page.why_not
        self.missing -= marks.keys()
        return counts

    def _twin_of(self, page: Page) -> str:
        # The name of an earlier page that shows the same sheet; "" if there is none.
        return next((name for name, known in self.sketches.items() if is_same_sheet(page.sketches, known)), "")

    def _free_name(self, stem: str) -> str:
        # A name that no other page of this command has, and no file that predict.py did not draw.
        for name in numbered(portable(f"{stem}.png")):
            path = self.folder / name
            if folded(name) not in self.taken and (not os.path.lexists(path) or annotate.is_montage(path)):
                self.taken.add(folded(name))
                return name
        raise AssertionError("there is always another number")

    def _draw(self, page: Page, marks: dict[int, str]) -> np.ndarray:
        picture = reduced(page.picture, annotate.PAGE_SIDE)
        scale = max(picture.shape[:2]) / max(page.picture.shape[:2])
        boxes = [tuple(scale * value for value in box) for box in page.boxes.values()]
        texts, colours = zip(*(self._label_of(page, each, marks.get(each)) for each in page.boxes), strict=True)
        lines = [printable(Path(page.name).name)]
        lines.append(f"not marked: {page.why_not}" if page.why_not else in_words(Counter(marks.values())))
        return annotate.annotate_page(picture, boxes, texts, colours, "\n".join([*lines, page.remark]))

    def _label_of(self, page: Page, number: int, mark: str | None) -> tuple[str, tuple]:
        # The text and the colour of a box; no text if it is empty and not in the key.
        answer = page.answers.get(number)
        if answer is None:
            return f"{number}: {EMPTY}" if mark else "", COLOURS[EMPTY]
        read = answer.top[0].index
        text = f"{number}: {self.names[read]}"
        if page.why_not:
            return text + " ?" * (not answer.is_sure), annotate.DARK_BLUE
        if mark is None:
            return f"{text}, no key", COLOURS[UNSURE]
        text += " ?" * (mark == UNSURE)
        return text if read == self.key[number] else f"{text}, not {self.names[self.key[number]]}", COLOURS[mark]

    def write_tables(self) -> None:
        """Write TABLES about the pages so far. Raises OSError if a file can't be written."""
        characters = [
            (self.names[label], *_figures(counts), self._read_as(label)) for label, counts in self.by_character()
        ]
        rows = (self.marks, self.pages, characters)
        for (name, titles), each in zip(TABLES.items() if self.pages else (), rows, strict=False):
            content = csv_bytes([titles, *each])
            write_file(self.folder / name, lambda content=content: content)

    def by_character(self) -> list[tuple[int, Counter[str]]]:
        """The label and the marks of each character that was expected, the most often misread first."""
        found = [(label, counts) for label, counts in self.characters.items() if counts]
        return sorted(found, key=lambda each: -each[1][WRONG])

    def _read_as(self, label: int, columns: int = sys.maxsize) -> str:
        # What a character was read as, the most frequent first, as many as fit.
        found = [f"{self.names[each]} {count}" for each, count in self.misread[label].most_common()]
        while cell_len(text := ", ".join(found)) > columns:
            found = [*found[: -2 if found[-1] == "..." else -1], "..."]
        return text

    def progress(self) -> str:
        """A message for a command that ends early."""
        is_one = self.marked == 1
        return f"{self.marked:,} page{' is' if is_one else 's are'} marked; the same command marks all of them again"

    def summarise(self) -> None:
        """Print the table of characters, and log what was marked. Raises RunError if no page was."""
        if not self.marked:
            raise RunError("no page was marked; see the warnings above")
        characters = self.by_character()
        names = [self.saved.display_name(label) for label, _ in characters]
        table = _Table(("character", *MARKS, "of"), max(map(cell_len, names)), "read as")
        _print("")
        for name, (label, counts) in list(zip(names, characters, strict=True))[:MAX_ROWS]:
            _print(table.format(name, *_figures(counts), self._read_as(label, table.left)))
        if len(names) > MAX_ROWS:
            _print(f" ... and {len(names) - MAX_ROWS:,} more in characters.csv")
        if self.missing:
            what = f"number{'s' * (len(self.missing) > 1)} {_ranges(self.missing)}"
            log.warning("%s of the key: on no page that was marked", what)
        pages = f"{self.marked:,} of {len(self.pages):,} page{'s' * (len(self.pages) > 1)}"
        log.info("marked %s: %s", pages, in_words(sum((counts for _, counts in characters), Counter())))
        log.info("wrote in %s: %s and the annotated pages", printable(self.folder), ", ".join(TABLES))


def _figures(counts: Counter[str]) -> list[int]:
    # How often each mark was given, and their sum.
    return [*(counts[mark] for mark in MARKS), counts.total()]


def in_words(counts: Counter[str]) -> str:
    """How often each mark was given: "23 right, 2 wrong, 3 to be looked at, 2 empty of 30"."""
    parts = [f"{counts[mark]:,} {IN_WORDS.get(mark, mark)}" for mark in MARKS if counts[mark] or mark == RIGHT]
    return f"{', '.join(parts)} of {counts.total():,}"


class _Table:
    """A table of figures whose rows can be printed one by one; a name that is too long is shortened in its middle."""

    def __init__(self, titles: Sequence[str], longest: int, last: str = "") -> None:
        # titles: of the names and of the figures. longest: columns of the names. last: title of a column of text.
        room = shutil.get_terminal_size().columns - 1  # a full line would be broken by some terminals
        self.sizes = [max(6, len(title)) for title in titles[1:]]
        figures = sum(2 + size for size in self.sizes)
        others = figures + (len(last) and 2 + MIN_PATH)
        self.width = max(len(titles[0]), min(longest, max(MIN_PATH, room - 1 - others)))
        self.left = max(len(last), room - 1 - self.width - figures - 2)  # columns for the text
        line = self._line(titles[0], titles[1:], last)
        self.head = [line, f" {'-' * (cell_len(line) - 1)}"]

    def format(self, name: str, *values: object) -> str:
        """A line; first of all, the titles. values: the figures, and the text of the last column if there is one."""
        figures, last = values[: len(self.sizes)], "".join(values[len(self.sizes) :])
        lines, self.head = self.head, []
        return "\n".join([*lines, self._line(name, [f"{each:,}" for each in figures], last)])

    def _line(self, name: str, figures: Sequence[str], last: str) -> str:
        name = set_cell_size(annotate.shortened(name, self.width), self.width)
        cells = [f"{each:>{size}}" for each, size in zip(figures, self.sizes, strict=True)]
        return " " + "  ".join([name, *cells, last]).rstrip()
