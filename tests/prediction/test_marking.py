"""predict.py --key: marks, numbers that never shift, what is written, keys of each form; with a network for digits."""

import csv
import errno
import os
import shutil
from collections.abc import Sequence
from pathlib import Path

import cv2
import made_up
import numpy as np
import pytest
import sheets
from PIL import Image
from rich.cells import cell_len

import predict
from neural_lib.checkpoint import load
from neural_lib.data.images import load_images
from neural_lib.data.sheet import SheetPage, pages_of
from neural_lib.evaluation import annotate
from neural_lib.prediction import marking
from neural_lib.prediction.marking import TABLES, KeyRow, Marking, Page, _Table, read_key
from neural_lib.prediction.recogniser import Answer, Candidate, Recogniser
from neural_lib.system import cli
from neural_lib.system.errors import UserError

DIGITS = [3, 0, 4, 6, 7, 2, 0, 6, 3, 4, 7, 2]


@pytest.fixture(scope="module")
def written(digits_model) -> dict[int, np.ndarray]:
    """For each digit an image (28, 28), light on black, that the network is sure about."""
    images, labels = load_images("digits", "nowhere", train=False)[:]
    probabilities = Recogniser.load(digits_model, "cpu").probabilities(images)
    best = {digit: int((probabilities[:, digit] * (labels == digit)).argmax()) for digit in range(10)}
    return {digit: images[index, 0].numpy() for digit, index in best.items()}


@pytest.fixture
def folder(digits_model, tmp_path, monkeypatch) -> Path:
    """The current folder, with model.pth and scans/."""
    monkeypatch.chdir(tmp_path)
    shutil.copy(digits_model, "model.pth")
    Path("scans").mkdir()
    return tmp_path


@pytest.fixture
def mark(folder, capfd):
    """Run predict.py with a key of these digits and more arguments; returns exit status, stdout, stderr."""

    def mark(key: list[int], *arguments: object) -> tuple[int, str, str]:
        Path("key.txt").write_text("".join(f"{digit}\n" for digit in key))
        options = ["--model", "model.pth", "--key", "key.txt", *map(str, arguments)]
        return cli.run(predict.main, "predict.py", options), *capfd.readouterr()

    return mark


def save(path: str, picture: np.ndarray) -> None:
    Image.fromarray(picture).save(path, compress_level=1)


def answer_sheet(
    page: SheetPage, written: dict, digits: dict[int, int], crossed: Sequence[int] = (), seed: int = 0
) -> np.ndarray:
    """A scan of a page of an answer sheet. digits: what is written, by number. crossed: numbers crossed out."""
    generator, images = np.random.default_rng(seed), {number: written[digit] for number, digit in digits.items()}
    paper = sheets.fill_in(sheets.printed(page), page, images, generator, pen="brush")
    return sheets.cross_out(paper, page, list(crossed), generator)


def paper(written: dict, digits: list[int | None], boxes: int = 0, heading: list[int] | None = None) -> np.ndarray:
    """A page without markers: six digits in a row, None for a gap, in printed boxes or not; above them a heading."""
    page = np.full((900, 820), 255, np.uint8)

    def put(digit: int, x: int, y: int) -> None:
        mark = cv2.resize(written[digit], (60, 60), interpolation=cv2.INTER_CUBIC).astype(float).clip(0, 255)
        page[y : y + 60, x : x + 60] = (255 - 0.9 * mark).round()

    for at, digit in enumerate(heading or []):
        put(digit, 80 + 110 * at, 60)
    for at in range(boxes):
        x, y = 65 + 110 * (at % 6), 205 + 120 * (at // 6)
        cv2.rectangle(page, (x, y), (x + 90, y + 90), 120, 2)
    for at, digit in enumerate(digits):
        if digit is not None:
            put(digit, 80 + 110 * (at % 6), 220 + 120 * (at // 6))
    return page


def rows_of(name: str, folder: str = "marks") -> list[dict[str, str]]:
    with open(f"{folder}/{name}", encoding="utf-8-sig", newline="") as file:
        rows = list(csv.DictReader(file))
    assert not rows or tuple(rows[0]) == TABLES[name]
    return rows


def marks_of(file: str, folder: str = "marks") -> dict[int, tuple[str, str, str]]:
    """Number -> expected, read, mark; of a page."""
    rows = [row for row in rows_of("marks.csv", folder) if row["file"].replace(os.sep, "/") == file]
    return {int(row["number"]): (row["expected"], row["read"], row["mark"]) for row in rows}


def has_colour(path: str, colour: tuple) -> bool:
    """True if a box or a text of that colour is drawn."""
    return (cv2.imread(path) == colour).all(2).sum() > 300


# --- marks ---


def test_answers_are_right_wrong_unsure_or_empty(written, mark):
    digits = dict(enumerate(DIGITS, start=1))
    save("scans/a.png", answer_sheet(pages_of([], 14)[0], written, digits | {4: 3, 9: 2} | {13: 6}, crossed=[2, 9]))
    blank = {number: digit for number, digit in digits.items() if number not in (7, 12)}
    save("scans/b.png", answer_sheet(pages_of([], 14)[0], written, blank))
    status, stdout, stderr = mark(DIGITS, "scans")
    assert (
        status == 0
        and stderr.replace(os.sep, "/") == "[WARNING] scans/a.png: box 13 is not empty, but not in the key\n"
    )
    right = {number: (str(digit), str(digit), "right") for number, digit in digits.items()}
    first, second = marks_of("scans/a.png"), marks_of("scans/b.png")
    assert [first.pop(number)[::2] for number in (2, 9)] == [("0", "unsure"), ("3", "unsure")]  # crossed out
    assert first == {number: right[number] for number in digits if number not in (2, 9)} | {4: ("6", "3", "wrong")}
    assert second == right | {7: ("0", "", "empty"), 12: ("2", "", "empty")}
    lines = [line.split() for line in stdout.replace(os.sep, "/").splitlines()]
    assert ["scans/a.png", "9", "1", "2", "0", "12"] in lines and ["scans/b.png", "10", "0", "0", "2", "12"] in lines
    assert ["6", "3", "1", "0", "0", "4", "3", "1"] in lines and ["0", "2", "0", "1", "1", "4"] in lines
    assert "[INFO] marked 2 of 2 pages: 19 right, 1 wrong, 2 to be looked at, 2 empty of 24\n" in stdout
    pages, characters = rows_of("pages.csv"), rows_of("characters.csv")
    assert [tuple(row.values())[1:] for row in pages] == [
        ("a.png", "9", "1", "2", "0", "12", "box 13 is not empty, but not in the key"),
        ("b.png", "10", "0", "0", "2", "12", ""),
    ]
    assert tuple(characters[0].values()) == ("6", "3", "1", "0", "0", "4", "3 1")  # the most often misread first
    assert sum(int(row["numbers"]) for row in characters) == 24
    drawn = {name: [has_colour(f"marks/{name}.png", each) for each in marking.COLOURS.values()] for name in "ab"}
    assert drawn == {"a": [True, True, True, False], "b": [True, False, False, True]}


def test_an_answer_that_is_not_sure_is_never_right_or_wrong(written, mark):
    save("scans/a.png", paper(written, DIGITS))
    other = [*DIGITS[:6], *DIGITS[5::-1]]
    assert mark(other, "scans", "--min-probability", 1)[0] == 0
    assert {each[2] for each in marks_of("scans/a.png").values()} == {"unsure"}
    assert mark(other, "scans", "--min-probability", 0)[0] == 0
    assert {number: each[2] for number, each in marks_of("scans/a.png").items()} == {
        number: "right" if one == two else "wrong"
        for number, (one, two) in enumerate(zip(DIGITS, other, strict=True), start=1)
    }


@pytest.mark.parametrize(
    ("read", "expected", "is_sure", "mark"),
    [
        (0.9, 0.9, True, "right"),
        (0.9, marking.WRONG_BELOW, True, "unsure"),
        (0.9, 0.9 * marking.WRONG_BELOW, True, "wrong"),
        (0.9, 0.9 * marking.WRONG_BELOW, False, "unsure"),
        (0.9, 0.9, False, "unsure"),
    ],
)
def test_only_what_is_certainly_another_character_is_wrong(read, expected, is_sure, mark):
    # label 0 is read, with this probability; the key expects label 0 if both probabilities are equal, else label 1
    top = [Candidate("a", read, 0, ""), Candidate("b", expected, 1, "")]
    answers = {1: Answer(top, np.zeros((2, 2), np.uint8), is_sure=is_sure)}
    page = Page("a.png", "a", boxes={1: (0, 0, 9, 9)}, answers=answers)
    assert page.marks({1: int(read != expected)}) == {1: mark}


@pytest.mark.slow
def test_numbers_are_counted_on_from_page_to_page_of_a_sheet(written, mark):
    page = pages_of([], 103)[1]
    assert page.numbers == range(101, 104)
    save("scans/two.png", answer_sheet(page, written, {101: 3, 103: 6}))
    assert mark([9] * 100 + [3, 4, 4], "scans")[2].endswith("numbers 1 to 100 of the key: on no page that was marked\n")
    assert marks_of("scans/two.png") == {
        101: ("3", "3", "right"), 102: ("4", "", "empty"), 103: ("4", "6", "wrong"),
    }  # fmt: skip
    status, _, stderr = mark([3, 6], "scans")  # whose numbers are on the other page
    assert status == 1 and "not marked: has the numbers 101 to 103, none of which is in the key" in stderr
    assert stderr.endswith("predict.py: error: no page was marked; see the warnings above\n")


def test_a_sheet_photographed_twice_is_named_but_not_another_pupils(written, mark):
    digits, page = dict(enumerate(DIGITS, start=1)), pages_of([], 12)[0]
    del digits[5]  # an empty box is not compared
    first, second = (answer_sheet(page, written, digits, seed=pupil) for pupil in range(2))
    for name, paper, photo in (("a", first, 0), ("b", second, 1), ("c", first, 2)):
        save(f"scans/{name}.png", sheets.photograph(paper, np.random.default_rng(photo), 1400))
    a, c = (os.path.join("scans", f"{name}.png") for name in "ac")
    twice = f"looks like the same sheet as {a}; both are counted, so leave one out if it is"
    status, _, stderr = mark(DIGITS, "scans")
    assert (status, stderr) == (0, f"[WARNING] {c}: {twice}\n")
    assert [row["remark"] for row in rows_of("pages.csv")] == ["", "", twice]
    assert [row["right"] for row in rows_of("pages.csv")] == ["11"] * 3
    mark(DIGITS[:-1], "scans")
    beyond = "box 12 is not empty, but not in the key"
    assert [row["remark"] for row in rows_of("pages.csv")] == [beyond, beyond, f"{beyond}; {twice}"]


def test_sheets_that_are_not_marked_are_not_compared(written, mark):
    save("scans/a.png", answer_sheet(pages_of([], 115)[1], written, {101: 3, 102: 4, 103: 5}))
    shutil.copy("scans/a.png", "scans/b.png")
    status, _, stderr = mark(DIGITS, "scans")
    assert status == 1 and stderr.count("none of which is in the key") == 2 and "same sheet" not in stderr


def test_a_sheet_that_cannot_be_used_is_named(written, mark):
    scan = answer_sheet(pages_of([], 12)[0], written, {1: 3})
    scan[:400, 1500:] = 255  # the code and a marker
    save("scans/a.png", scan)
    save("scans/b.png", paper(written, DIGITS))
    status, _, stderr = mark(DIGITS, "scans")
    assert (
        status == 0 and "a.png: not marked: the square code beside a sheet's upper right corner can't be read" in stderr
    )
    assert not marks_of("scans/a.png") and len(marks_of("scans/b.png")) == 12
    assert [(row["annotated"], row["remark"][:10]) for row in rows_of("pages.csv")] == [
        ("", "not marked"), ("b.png", ""),
    ]  # fmt: skip


def test_a_sheet_with_other_characters_printed_on_it_is_not_marked(written, mark):
    for name, labels in (("same", "304"), ("other", "305")):
        (page,) = pages_of(labels, 1)
        save(f"scans/{name}.png", answer_sheet(page, written, {1: 3, 2: 0, 3: 4}))
    status, _, stderr = mark([3, 0, 4], "scans")
    assert status == 0 and "other.png: not marked: is no answer sheet: the characters printed on it are not" in stderr
    assert {mark for *_, mark in marks_of("scans/same.png").values()} == {"right"} and not marks_of("scans/other.png")


def test_labels_that_were_renamed_when_they_were_collected_are_those_of_the_key(written, mark, monkeypatch):
    (page,) = pages_of(["/", "CON", "7"], 1)
    save("scans/a.png", answer_sheet(page, written, {1: 3, 2: 0, 3: 7}))
    model = load("model.pth")
    monkeypatch.setattr(
        type(model), "labels", {name: label for label, name in enumerate(["_CON", "1", "2", "_", *"456789"])}
    )
    Path("key.csv").write_text("expected\n_\n_CON\n7\n")
    assert mark(DIGITS, "scans", "--key", "key.csv")[0] == 0
    assert {mark for *_, mark in marks_of("scans/a.png").values()} == {"right"}


# --- pages without markers ---


def test_boxes_are_counted_and_ink_outside_of_them_is_not(written, mark):
    digits = [None if number in (1, 5, 12) else digit for number, digit in enumerate(DIGITS, start=1)]
    save("scans/a.png", paper(written, digits, boxes=18, heading=[8, 3, 5]))
    save("scans/empty.png", paper(written, [], boxes=12))
    status, _, stderr = mark(DIGITS, "scans")
    remark = "has 18 boxes, and the key goes up to number 12: see whether box 1 is the first one"
    assert (status, stderr) == (0, f"[WARNING] {os.path.join('scans', 'a.png')}: {remark}\n")
    assert [row["remark"] for row in rows_of("pages.csv")] == [remark, ""]
    expected = {
        number: (str(digit), *(("", "empty") if number in (1, 5, 12) else (str(digit), "right")))
        for number, digit in enumerate(DIGITS, start=1)
    }
    assert marks_of("scans/a.png") == expected
    assert {each[1:] for each in marks_of("scans/empty.png").values()} == {("", "empty")}


@pytest.mark.few(1)
@pytest.mark.parametrize("digits, boxes, why", [
    (DIGITS[:11], 0, "has 11 characters, and the key has 12"),
    ([*DIGITS, 3], 0, "has 13 characters, and the key has 12"),
    (DIGITS[:9], 10, "has 10 boxes, and the key goes up to number 12"),
    ([*DIGITS[:11], None, None, 6, 3], 18, "boxes 14 to 15 are not empty, but not in the key"),
    ([], 0, "no ink found"),
], ids=["fewer", "more", "fewer boxes", "more in boxes", "blank"])  # fmt: skip
def test_a_page_of_another_number_is_reported_and_not_marked(written, mark, digits, boxes, why):
    save("scans/a.png", paper(written, digits, boxes))
    status, stdout, stderr = mark(DIGITS, "scans")
    assert status == 1 and " right" not in stdout
    assert stderr.replace(os.sep, "/").splitlines() == [
        f"[WARNING] scans/a.png: not marked: {why}",
        "predict.py: error: no page was marked; see the warnings above",
    ]
    assert rows_of("marks.csv") == [] and rows_of("characters.csv") == []
    (page,) = rows_of("pages.csv")
    assert (page["remark"], page["right"], page["numbers"]) == (f"not marked: {why}", "", "")
    if digits:
        drawn = [has_colour(f"marks/{page['annotated']}", each) for each in marking.COLOURS.values()]
        assert has_colour("marks/a.png", annotate.DARK_BLUE) and not any(drawn)


@pytest.mark.slow
def test_first_lines_are_a_heading_if_more_is_right_without_them(written, mark):
    save("scans/a.png", paper(written, DIGITS, heading=[8, 3, 5, 2]))
    status, stdout, _ = mark(DIGITS, "scans")
    assert status == 0 and "a.png: the first line is taken for a heading (4 characters)\n" in stdout
    assert [each[2] for each in marks_of("scans/a.png").values()] == ["right"] * 12
    assert rows_of("pages.csv")[0]["remark"] == "the first line is taken for a heading (4 characters)"
    whole = [8, 3, 5, 2, *DIGITS]
    assert "has 16 characters, and the key has 12" in mark(whole[:12], "scans")[2]  # less is right without them
    assert "has 16 characters, and the key has 12" in mark([9] * 12, "scans")[2]  # no more is right without them
    assert "has 16 characters, and the key has 13" in mark(whole[3:], "scans")[2]  # a part of a line is no heading
    assert mark(DIGITS[6:], "scans")[1].count("the first 2 lines are taken for a heading (10 characters)") == 1


def test_a_heading_may_be_the_first_column(written, mark):
    across = paper(written, DIGITS, heading=[8, 3, 5, 2])
    turned = np.full((820, 900), 255, np.uint8)  # the columns of which, from the right, are the rows of the other page
    for top, count in ((60, 4), (220, 6), (340, 6)):
        for at in range(count):
            x, y = 900 - top - 60, 80 + 110 * at
            turned[y : y + 60, x : x + 60] = across[top : top + 60, y : y + 60]
    save("scans/a.png", turned)
    status, stdout, _ = mark(DIGITS, "scans", "--order", "columns")
    assert status == 0 and "the first line is taken for a heading (4 characters)" in stdout
    assert [each[2] for each in marks_of("scans/a.png").values()] == ["right"] * 12
    assert "has 16 characters, and the key has 13" in mark([2, *DIGITS], "scans", "--order", "columns")[2]


# --- files ---


@pytest.mark.slow
def test_each_page_has_an_annotated_picture_and_the_same_command_replaces_it(written, mark):
    page = pages_of([], 12)[0]
    digits = dict(enumerate(DIGITS, start=1))
    sheet = answer_sheet(page, written, digits)
    save("scans/photo.png", np.hstack([sheet, answer_sheet(page, written, digits | {3: 2})]))
    first, second = (Image.fromarray(paper(written, each)) for each in (DIGITS, [*DIGITS[:11], 3]))
    first.save("scans/two.tif", save_all=True, append_images=[second])
    first.save("scans/one.bmp")
    second.save("scans/one.png")
    Path("scans/key.csv").write_text("number;expected\n" + "".join(f"{n};{digit}\n" for n, digit in digits.items()))
    Path("scans/notes-page-1.txt").write_text("mine")
    save("scans/two-page-1.png", np.zeros((40, 40, 3), np.uint8))
    before = {path: path.read_bytes() for path in Path("scans").iterdir()}
    runs = []
    for _ in range(2):
        status, stdout, stderr = mark(DIGITS, "scans", "--output", "scans", "--key", "scans/key.csv")
        runs.append((status, stdout, stderr, {path: path.read_bytes() for path in Path("scans").iterdir()}))
    assert runs[0] == runs[1] and runs[0][0] == 0
    assert {path: runs[0][3][path] for path in before} == before  # files of others stay
    annotated = {row["file"].replace(os.sep, "/"): row["annotated"] for row in rows_of("pages.csv", "scans")}
    assert annotated == {
        "scans/photo.png, sheet 1": "photo-sheet-1.png", "scans/photo.png, sheet 2": "photo-sheet-2.png",
        "scans/one.bmp": "one-1.png", "scans/one.png": "one-2.png", "scans/two-page-1.png": "",
        "scans/two.tif[1]": "two-page-1-1.png", "scans/two.tif[2]": "two-page-2.png",
    }  # fmt: skip
    new = {path.name for path in runs[0][3].keys() - before.keys()}
    assert new == {*TABLES, *filter(None, annotated.values())}
    assert all(annotate.is_montage(Path("scans", name)) for name in annotated.values() if name)
    wrong = {
        name: number for name in annotated for number, each in marks_of(name, "scans").items() if each[2] == "wrong"
    }
    assert [wrong.pop(each) for each in list(wrong) if "sheet" in each] == [3]
    assert wrong == {"scans/one.png": 12, "scans/two.tif[2]": 12}
    assert mark(DIGITS, "scans/one.bmp", "scans/one-1.png")[0] == 0  # an annotated page that a shell's pattern names
    assert [row["annotated"] for row in rows_of("pages.csv")] == ["one.png"]


@pytest.mark.parametrize("name", list(TABLES))
def test_a_table_of_another_program_is_not_touched(mark, name):
    Path("marks").mkdir()
    Path("marks", name).write_text("mine\n")
    status, _, stderr = mark(DIGITS, "scans")
    assert status == 2 and stderr.replace(os.sep, "/") == (
        f"predict.py: error: --output marks/{name}: was not written by predict.py --key; move it, or choose another "
        "folder\n"
    )
    assert os.listdir("marks") == [name] and Path("marks", name).read_text() == "mine\n"


@pytest.mark.slow
@pytest.mark.parametrize("error, status, message", [
    (KeyboardInterrupt, 130, "interrupted; 1 page is marked; the same command marks all of them again\n"),
    (OSError(errno.ENOSPC, "No space left on device"), 1, "marks/b.png: No space left on device\n"),
], ids=["Ctrl-C", "full disk"])  # fmt: skip
def test_a_command_that_ends_early_leaves_whole_files_and_one_line(written, mark, monkeypatch, error, status, message):
    for name in "abc":
        save(f"scans/{name}.png", paper(written, DIGITS))

    def fail(source, target, replace=os.replace):
        if Path(target).name == "b.png":
            raise error
        replace(source, target)

    with monkeypatch.context() as patched:
        patched.setattr(os, "replace", fail)
        ended, _, stderr = mark(DIGITS, "scans")
    assert (ended, stderr.replace(os.sep, "/")) == (status, f"predict.py: error: {message}")
    assert sorted(os.listdir("marks")) == sorted(["a.png", *TABLES])
    assert {row["file"] for row in rows_of("marks.csv")} == {os.path.join("scans", "a.png")}
    assert mark(DIGITS, "scans")[0] == 0 and len(rows_of("marks.csv")) == 36


def test_the_tables_fit_the_terminal(written, mark, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    save(f"scans/{'long ' * 30}name.png", paper(written, DIGITS))
    lines = mark(DIGITS, "scans")[1].splitlines()
    titles = next(at for at, line in enumerate(lines) if line.startswith(" page "))
    assert max(map(cell_len, lines[titles : titles + 3])) < 80
    assert lines[titles + 1].strip(" -") == "" and len(lines[titles + 1]) == len(lines[titles])
    assert lines[titles + 2].startswith(" scans") and lines[titles + 2].endswith(
        "name.png      12       0       0       0      12"
    )
    table = _Table(("character", "right", "of"), 500, "read as")
    rows = table.format("か" * 60, 12345, 0, ", ".join(["ki 1"] * 2)).split("\n")
    assert max(map(cell_len, rows)) < 80 and rows[2].endswith("  12,345       0  ki 1, ki 1")


def test_confusions_that_do_not_fit_are_left_out(folder):
    saved = load("model.pth")
    marks = Marking(saved, {1: 4}, Path("marks"))
    marks.misread[4].update([2, 2, 2, 7, 7, 9])
    assert marks._read_as(4) == "2 3, 7 2, 9 1"
    assert [marks._read_as(4, columns) for columns in (13, 12, 10, 8, 3)] == [
        "2 3, 7 2, 9 1", "2 3, ...", "2 3, ...", "2 3, ...", "...",
    ]  # fmt: skip


def test_a_box_shows_what_is_expected_unless_it_was_read(folder):
    marks = Marking(load("model.pth"), {1: 4, 2: 4, 3: 4, 4: 4}, Path("marks"))

    def answer(label: int, is_sure: bool) -> Answer:
        return Answer([Candidate(str(label), 0.9, label, "")], np.zeros((28, 28), np.uint8), is_sure=is_sure)

    page = Page(
        "a.png", "a", answers={1: answer(4, True), 2: answer(4, False), 3: answer(9, False), 4: answer(9, True)}
    )
    texts = [
        marks._label_of(page, number, mark)
        for number, mark in enumerate(("right", "unsure", "unsure", "wrong"), start=1)
    ]
    assert [text for text, _ in texts] == ["1: 4", "2: 4 ?", "3: 9 ?, not 4", "4: 9, not 4"]


def test_no_two_pages_have_one_picture(folder):
    marks = Marking(load("model.pth"), {1: 4}, Path("scans"))
    save("scans/b.png", np.zeros((9, 9, 3), np.uint8))
    annotate.write_picture(Path("scans/c.png"), np.zeros((9, 9, 3), np.uint8))
    Path("scans/d.png").mkdir()
    names = [marks._free_name(stem) for stem in ("a", "A", "b", "c", "c", "d", "con", "x" * 250)]
    assert names[:7] == ["a.png", "A-1.png", "b-1.png", "c.png", "c-1.png", "d-1.png", "_con.png"]
    assert len(names[7]) == 200


def test_characters_are_named_as_they_are_written(tmp_path):
    saved = made_up.make_checkpoint("kmnist")
    marks = Marking(saved, {1: 1, 2: 2}, tmp_path)
    assert marks.names[:3] == ["お", "き", "す"]
    page = Page("a.png", "a", boxes={1: (0, 0, 9, 9), 2: (9, 0, 9, 9)})
    assert marks.add(page) == {"empty": 2}
    marks.write_tables()
    assert [row["expected"] for row in rows_of("marks.csv", str(tmp_path))] == ["き", "す"]


# --- the key ---


@pytest.mark.parametrize("name, text, rows", [
    ("k.csv", "expected\na\nb\n", [(2, 1, "a"), (3, 2, "b")]),
    ("k.csv", "\ufeffNumber;Student;Expected\n7;x;a\n3;y;b\n", [(3, 3, "b"), (2, 7, "a")]),
    ("k.tsv", "label\tnumber\n,\t2\n;\t1\n\t\n", [(3, 1, ";"), (2, 2, ",")]),
    ("k.csv", "character,label\na,b\n", [(2, 1, "b")]),
    ("k.csv", "a\nb\n\n\n", [(1, 1, "a"), (2, 2, "b")]),
    ("k.csv", "2,a\n1,b\n", [(2, 1, "b"), (1, 2, "a")]),
    ("k.csv", "2,a\n", [(1, 2, "a")]),
    ("k.csv", "a,b,a\n", [(1, 1, "a"), (2, 2, "b"), (3, 3, "a")]),
    ("k.txt", "れおき\n", [(1, 1, "れ"), (2, 2, "お"), (3, 3, "き")]),
    ("k.txt", "ki o ki o\n", [(1, 1, "ki"), (2, 2, "o"), (3, 3, "ki"), (4, 4, "o")]),
    ("k.csv", '2;a;\n"1";"b"\n', [(2, 1, "b"), (1, 2, "a")]),
    ("k.csv", "number,expected\n1,'-\n2,'+1\n", [(2, 1, "-"), (3, 2, "+1")]),  # as csv_bytes writes them
    ("k.txt", "a\n,\n;\n\"\n 3 \n", [(1, 1, "a"), (2, 2, ","), (3, 3, ";"), (4, 4, '"'), (5, 5, "3")]),
    ("k.txt", "1\ta\r\n2\tb\r\n", [(1, 1, "a"), (2, 2, "b")]),
    ("k.txt", "か\u3099\n", [(1, 1, "が")]),  # as macOS writes it
])  # fmt: skip
def test_a_key_may_have_many_forms(tmp_path, name, text, rows):
    (tmp_path / name).write_bytes(text.encode())
    assert read_key(str(tmp_path / name)) == [KeyRow(*row) for row in rows]


@pytest.mark.parametrize("content, message", [
    ("", "has no characters"),
    ("\n\n", "has no characters"),
    ("number,expected\n", "has no characters"),
    ("number,expected\n1,a\n2,b\n1,c\n", "number 1 is given 2 times, in rows 2, 4; give it once"),
    ("number,expected\n1,a\n2,\n", "row 3 has no character"),
    ("a\n\nb\n", "row 2 has no character"),
    ("0,a\n", "row 1 has '0' in place of a number from 1; title the columns number and expected"),
    ("number,expected\n1.5,a\n", "row 2 has '1.5' in place of a number from 1"),
    ("Nr,Zeichen\n1,a\n", "row 1 has 'Nr' in place of a number from 1; title the columns number and expected"),
    ("a,b,c\nd,e,f\n", "has 3 columns, and none has the title expected"),
    (b"\xff\xfea\x00", "is no text in UTF-8; save it as a CSV file in UTF-8"),
    ('"a\n', None),  # a quotation mark that is not closed is taken as it is
])  # fmt: skip
def test_a_key_that_cannot_be_used_is_refused(tmp_path, content, message):
    path = tmp_path / "k.csv"
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    if message is None:
        assert read_key(str(path)) == [KeyRow(1, 1, "a")]
        return
    with pytest.raises(UserError) as refused:
        read_key(str(path))
    assert str(refused.value) == f"--key {path}: {message}"


@pytest.mark.slow
def test_a_key_is_checked_before_torch_is_loaded(run_without_torch, tmp_path):
    for name in ("model.pth", "scan.png", "key.csv"):
        (tmp_path / name).touch()
    done = run_without_torch("predict", "--model", "model.pth", "scan.png", "--key", "key.csv")
    assert (done.returncode, done.stderr) == (2, "predict.py: error: --key key.csv: has no characters\n")
    assert not (tmp_path / "marks").exists()
    done = run_without_torch("predict", "--model", "model.pth", "scan.png", "--key", "none.csv")
    assert done.returncode == 2 and "--key none.csv: can't be read" in done.stderr


def test_characters_that_the_network_does_not_know_are_named(mark, monkeypatch):
    monkeypatch.setattr(marking, "_pages_of", None)  # no picture is read
    Path("unknown.csv").write_text("3\nx\n4\nか\nx\n", encoding="utf-8")
    save("scans/a.png", np.zeros((9, 9), np.uint8))
    status, _, stderr = mark([], "scans", "--key", "unknown.csv")
    assert (status, stderr) == (2, (
        "predict.py: error: --key unknown.csv: this network doesn't know x (rows 2, 5), か (row 4); it knows 0, 1, 2, "
        "3, 4, 5, 6, 7, 8, 9\n"
    ))  # fmt: skip
    Path("model.pth").write_bytes(made_up.make_checkpoint("cifar10").to_bytes())
    status, _, stderr = mark([3], "scans")
    assert status == 2 and stderr == (
        "predict.py: error: --key: this network knows CIFAR-10, and only written characters can be marked\n"
    )
    assert not Path("marks").exists()


@pytest.mark.parametrize("arguments, message", [
    ([], "--key needs pictures to mark: files or folders"),
    (["a.png", "--json"], "--json doesn't go with --key"),
    (["a.png", "--single"], "--single doesn't go with --key"),
    (["a.png", "--sort-into", "x"], "--sort-into doesn't go with --key"),
    (["a.png", "--show-input"], "--show-input doesn't go with --key"),
    (["a.png", "--top", "5"], "--show and --top don't go with --key"),
    (["a.png", "--show"], "--show and --top don't go with --key"),
    (["a.png", "--output", "marks.png"], "--output marks.png: with --key it names a folder"),
    (["--draw"], "--key and --draw don't go together"),
])  # fmt: skip
def test_options_that_do_not_go_with_a_key_are_refused(arguments, message):
    with pytest.raises(UserError, match=message):
        predict.parse_args([*arguments, "--key", "key.csv"])
