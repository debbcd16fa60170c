"""predict.py --collect: what is cut out where, what sheets.csv lists, and that the same command collects the rest."""

import csv
import errno
import functools
import hashlib
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
import sheets
from conftest import ROOT
from PIL import Image

import predict
from neural_lib.data import ink
from neural_lib.data.catalog import DATASETS
from neural_lib.data.listing import list_files
from neural_lib.data.pictures import COMMAND_TABLES
from neural_lib.data.sheet import (
    CODE,
    CODE_AT,
    SheetPage,
    find_sheets,
    is_same_sheet,
    likeness,
    pages_of,
    read_boxes,
    sketch_of,
)
from neural_lib.prediction import collect, folders, sort
from neural_lib.prediction.collect import SHEETS, Row, cut_out
from neural_lib.system import cli
from neural_lib.system.files import locked, write_file

PAGE, NEXT = pages_of(["a", "か"], 3)[0], pages_of(["a", "か"], 55)[1]
FULL = "No space left on device"
REDUCED = 0.5  # scans of 127 pixels per inch are read as well as larger ones, and faster


@functools.cache
def paper_of(page: SheetPage, seed: int, crossed: tuple[int, ...] = (2,), empty: tuple[int, ...] = (6,)) -> np.ndarray:
    """A sheet that a pupil, who has this seed, filled in; no two pupils write a character alike."""
    generator = np.random.default_rng(seed)

    def scrawl() -> np.ndarray:
        image = np.zeros((112, 112), np.uint8)
        points = generator.uniform(20, 92, (5, 2)).round().astype(np.int32)
        return cv2.resize(cv2.polylines(image, [points], False, 255, 9, cv2.LINE_AA), (28, 28), cv2.INTER_AREA)

    images = {number: scrawl() for number in page.numbers}
    images = {number: image for number, image in images.items() if number - page.first + 1 not in empty}
    paper = sheets.fill_in(sheets.printed(page), page, images, generator, "brush")
    paper = sheets.cross_out(paper, page, [number - 1 + page.first for number in crossed], generator)
    return cv2.resize(paper, None, fx=REDUCED, fy=REDUCED, interpolation=cv2.INTER_AREA)


_remembered: dict[tuple, object] = {}


@pytest.fixture(autouse=True)
def remember(monkeypatch):
    """Find sheets, and read boxes, once for each picture of these tests: it takes most of their time."""

    def once(function, picture_of):
        def call(argument):
            key = function.__name__, hashlib.sha256(picture_of(argument).tobytes()).digest()
            if key not in _remembered:
                _remembered[key] = function(argument)
            return _remembered[key]

        return call

    monkeypatch.setattr(collect, "find_sheets", once(find_sheets, lambda picture: picture))
    monkeypatch.setattr(collect, "read_boxes", once(read_boxes, lambda sheet: sheet.picture))


def scan(path: str, page: SheetPage = PAGE, seed: int = 0) -> Path:
    """Write a filled in sheet as a flatbed scanner does."""
    return save(path, paper_of(page, seed))


def save(path: str, *papers: np.ndarray) -> Path:
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    first, *others = map(Image.fromarray, papers)
    options = {"save_all": True, "append_images": others} if path.endswith(".tif") else {"compress_level": 1}
    first.save(path, **options)
    return Path(path)


def photo(path: str, paper: np.ndarray, seed: int = 0) -> Path:
    return save(path, sheets.photograph(paper, np.random.default_rng(seed), 1200, 10))


@pytest.fixture
def run(tmp_path, monkeypatch, capfd):
    """Collect from scans/, or these arguments, into characters/; returns exit status, stdout, stderr."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments: str) -> tuple[int, str, str]:
        arguments = arguments if "--into" in arguments else (*(arguments or ("scans",)), "--into", "characters")
        return cli.run(predict.main, "predict.py", ["--collect", *arguments]), *capfd.readouterr()

    return run


def rows_of(folder: str = "characters") -> list[Row]:
    with open(f"{folder}/{SHEETS}", encoding="utf-8-sig", newline="") as file:
        titles, *rows = csv.reader(file)
    assert tuple(titles) == Row._fields
    return [Row(*row) for row in rows]


def files_in(folder: str = "characters") -> dict[str, bytes]:
    """The content of each file in a folder except the table."""
    files = (path for path in Path(folder).rglob("*") if path.is_file() and path.name != SHEETS)
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


ONE = ["a/one-001.png", "a/one-003.png", "か/one-004.png", "か/one-005.png"]  # of paper_of(PAGE)


def test_each_character_is_in_the_folder_of_its_label(run):
    scan("scans/one.png")
    photo("scans/two.png", paper_of(NEXT, 1))
    before = files_in("scans")
    status, stdout, stderr = run()
    assert (status, stderr) == (0, "")
    assert stdout.replace(os.sep, "/") == (
        "[INFO] collected 12 characters of 2 labels from 2 sheets; 2 empty, 2 crossed out; characters/sheets.csv lists "
        "them\n"
    )
    numbers = [101, *range(103, 106), *range(107, 111)]
    assert NEXT.numbers == range(101, 111)
    assert sorted(files_in()) == sorted([*ONE, *(f"か/two-{number}.png" for number in numbers)])
    rows = [row for row in rows_of() if row.sheet == "one"]
    assert [(row.label, row.number, row.reason) for row in rows] == [
        ("a", "1", ""), ("a", "2", "crossed out"), ("a", "3", ""),
        ("か", "4", ""), ("か", "5", ""), ("か", "6", "empty"),
    ]  # fmt: skip
    assert [row.file for row in rows if row.file] == ONE
    assert {(row.page, row.scan, row.picture) for row in rows} == {("1", os.path.realpath("scans/one.png"), "1")}
    assert files_in("scans") == before and sorted(os.listdir()) == ["characters", "scans"]


@pytest.mark.slow
def test_training_sees_what_is_on_the_paper():
    (sheet,) = find_sheets(sheets.photograph(paper_of(PAGE, 0), np.random.default_rng(1), 2000, 10))
    info = DATASETS["kmnist"]
    for box, place in zip(read_boxes(sheet), sheet.boxes, strict=True):
        if box.character and not box.is_crossed_out:
            picture = cut_out(box.character, place)
            seen = ink.prepare(np.dstack([picture] * 3), info)[0].astype(float)
            expected = ink.place(box.character.ink, info.placement, info.image_size).astype(float)
            assert np.abs(seen - expected).mean() < 2 and np.abs(seen - expected).max() < 40
            assert picture.shape[0] == picture.shape[1] and (picture[[0, -1]] == 255).all()
            middle = np.argwhere(picture < 128).mean(0) - len(picture) / 2
            x, y, width, height = box.character.box
            offset = np.array([y + height / 2, x + width / 2]) - place[1::-1] - place[3:1:-1] / 2
            assert np.abs(middle - offset).max() < 25  # in its place in the box


def test_the_folder_is_a_data_set(run):
    scan("scans/one.png")
    run()
    assert "answers.csv" in COMMAND_TABLES and SHEETS in COMMAND_TABLES and sort.ANSWERS in COMMAND_TABLES
    with list_files("characters") as listing:
        assert (listing.classes, listing.stray, len(listing.files)) == (["a", "か"], [], 4)


@pytest.mark.slow
def test_torch_is_not_loaded(tmp_path):
    scan(f"{tmp_path}/scans/one.png")
    code = "import predict, sys; predict.main(sys.argv[1:]); assert 'torch' not in sys.modules"
    command = [sys.executable, "-c", code, "--collect", "scans", "--into", "characters"]
    done = subprocess.run(command, cwd=tmp_path, env=os.environ | {"PYTHONPATH": str(ROOT)}, capture_output=True)
    assert done.returncode == 0, done.stderr


# --- again, and again ---


@pytest.fixture
def whole(run) -> tuple[dict[str, bytes], list[Row]]:
    """The files and rows of a command that was not interrupted; its scans stay."""
    scan("scans/one.png")
    save("scans/two.tif", paper_of(PAGE, 1), paper_of(PAGE, 2))
    run()
    result = files_in(), sorted(rows_of())
    shutil.rmtree("characters")
    return result


def assert_collects_the_rest(run, whole) -> None:
    """Expect that the same command collects all that is missing, and then nothing."""
    assert run()[0] == 0
    assert (files_in(), sorted(rows_of())) == whole
    table = Path("characters", SHEETS).read_bytes()
    status, stdout, stderr = run()
    assert (status, stderr) == (0, "") and "collected 0 characters; 2 had been read before;" in stdout
    assert (files_in(), sorted(rows_of())) == whole and Path("characters", SHEETS).read_bytes() == table


@pytest.mark.few(1)
@pytest.mark.parametrize("number, is_written", [(7, True), (1, False), (4, True), (5, False), (12, False), (12, True)])
def test_an_interrupted_command_collects_the_rest_when_it_is_repeated(run, whole, monkeypatch, number, is_written):
    written = []

    def interrupt(path, make):
        written.append(path) if path.suffix == ".png" else None
        if len(written) != number or is_written:
            write_file(path, make)
        if len(written) == number:
            raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(folders, "write_file", interrupt)
        status, _, stderr = run()
    count = "1 sheet is" if number > 4 else "0 sheets are"  # of the file that was finished
    assert status == 130
    assert stderr == f"predict.py: error: interrupted; {count} collected, and the same command collects the rest\n"
    assert len(files_in()) == number - (not is_written)
    assert sorted(rows_of()) == [row for row in whole[1] if row.sheet == "one" and number > 4]
    assert_collects_the_rest(run, whole)


def test_a_scan_whose_rows_were_deleted_is_read_again(run, whole):
    run()
    delete_rows(lambda row: "two" in row.scan)
    assert_collects_the_rest(run, whole)


def delete_rows(is_deleted: Callable[[Row], bool]) -> bytes:
    """Delete rows of the table by hand; returns what is left of the file."""
    table = Path("characters", SHEETS)
    titles, *lines = table.read_bytes().splitlines(keepends=True)
    rows = zip(rows_of(), lines, strict=True)
    table.write_bytes(b"".join([titles, *(line for row, line in rows if not is_deleted(row))]))
    return table.read_bytes()


def test_a_table_without_a_last_line_end_is_read_whole(run):
    scan("scans/one.png")
    run()
    table = Path("characters", SHEETS)
    content = table.read_bytes()
    table.write_bytes(content.removesuffix(b"\r\n"))  # some editors leave it out
    assert run()[::2] == (0, "") and table.read_bytes() == content


@pytest.mark.parametrize("number", [1, 2])
def test_sheets_that_are_not_listed_are_not_called_collected(run, whole, monkeypatch, number):
    def fail(path, make):
        calls.append(path)
        if len(calls) > number:
            raise OSError(errno.ENOSPC, FULL, str(path))
        write_file(path, make)

    with monkeypatch.context() as patched:
        calls = []
        patched.setattr(
            folders, "write_file", lambda path, make: (fail if path.name == SHEETS else write_file)(path, make)
        )
        status, _, stderr = run()
    count = ["0 sheets are", "1 sheet is"][number - 1]  # the first table has the titles only
    assert status == 1 and f"{FULL}; {count} collected, and the same command collects the rest\n" in stderr
    assert_collects_the_rest(run, whole)


@pytest.mark.parametrize("number", ["1", "2"])  # written, and crossed out
def test_a_row_that_was_deleted_stays_so_and_another_photo_of_its_sheet_is_left_out(run, number):
    scan("scans/one.png")
    run()
    content = delete_rows(lambda row: row.number == number)
    for file in ONE[: number == "1"]:
        os.remove(f"characters/{file}")
    files = files_in()
    status, stdout, stderr = run()
    assert (status, stderr) == (0, "") and "collected 0 characters; 1 had been read before;" in stdout
    assert files_in() == files and Path("characters", SHEETS).read_bytes() == content
    photo("scans/two.png", paper_of(PAGE, 0))
    assert "shows the same sheet as" in run()[2] and files_in() == files


def test_a_full_disk_ends_the_command_in_one_line_and_nothing_is_half_there(run, whole, monkeypatch):
    def fail(source, target, replace=os.replace):
        if Path(target).name == "two-1-003.png":
            raise OSError(errno.ENOSPC, FULL)
        replace(source, target)

    with monkeypatch.context() as patched:
        patched.setattr(os, "replace", fail)
        status, _, stderr = run()
    assert status == 1 and stderr.replace(os.sep, "/") == (
        f"predict.py: error: characters/a/two-1-003.png: {FULL}; 1 sheet is collected, and the same command collects "
        "the rest\n"
    )
    assert sorted(files_in()) == sorted([*ONE, "a/two-1-001.png"])
    assert_collects_the_rest(run, whole)


@pytest.mark.parametrize("deleted", [[ONE[0]], [ONE[0], ONE[2]]])
def test_what_was_deleted_or_moved_by_hand_does_not_come_back(run, deleted):
    scan("scans/one.png")
    run()
    for name in deleted:
        os.remove(f"characters/{name}")
    os.mkdir("characters/b")
    os.rename("characters/a/one-003.png", "characters/b/one-003.png")
    os.rename("scans/one.png", "scans/renamed.png")
    photo("scans/again.png", paper_of(PAGE, 0))  # the same paper
    scan("scans/more.png", seed=1)
    before = files_in()
    status, stdout, stderr = run()
    new = {name: content for name, content in files_in().items() if "more" not in name}
    assert status == 0 and new == before
    assert (
        "collected 4 characters of 2 labels from 1 sheet; 1 empty, 1 crossed out; 1 sheet photographed twice; "
        in stdout
    )
    assert "; 1 had been read before; " in stdout
    earlier = os.path.realpath("scans/one.png")
    again = os.path.join("scans", "again.png")
    assert stderr == f"[WARNING] {again}: shows the same sheet as {earlier}; left out\n"
    assert run()[::2] == (0, "")
    assert len(files_in()) == len(before) + 4


def test_a_file_of_another_program_is_not_overwritten(run):
    scan("scans/one.png")
    for name in (ONE[0], ONE[2]):
        Path("characters", name).parent.mkdir(parents=True, exist_ok=True)
        Path("characters", name).write_bytes(b"mine")
    run()
    files = files_in()
    assert files[ONE[0]] == files[ONE[2]] == b"mine" and len(files) == 6
    assert [row.file for row in rows_of() if row.file] == ["a/one-001-1.png", ONE[1], "か/one-004-1.png", ONE[3]]


# --- sheets that are there twice ---


@pytest.mark.slow
def test_another_photo_of_a_sheet_is_left_out_but_not_another_pupils(run):
    photo("scans/1.png", paper_of(PAGE, 0), seed=1)
    photo("scans/2.png", paper_of(PAGE, 0), seed=2)
    photo("scans/3.png", paper_of(PAGE, 3), seed=3)
    shutil.copy("scans/3.png", "scans/copy.png")
    status, stdout, stderr = run()
    one, two, three, copy = (os.path.join("scans", name) for name in ("1.png", "2.png", "3.png", "copy.png"))
    assert status == 0 and stderr.splitlines() == [
        f"[WARNING] {two}: shows the same sheet as {one}; left out",
        f"[WARNING] {copy}: is a copy of {three}; left out",
    ]
    assert {row.sheet for row in rows_of() if row.file} == {"1", "3"}
    assert [row.reason for row in rows_of() if row.sheet == "2"] == [f"shows the same sheet as {one}; left out"]


@pytest.mark.slow
def test_likeness_is_high_for_one_sheet_and_low_for_two():
    def sketches(paper: np.ndarray, seed: int) -> dict[int, np.ndarray]:
        (sheet,) = find_sheets(sheets.photograph(paper, np.random.default_rng(seed), 1200))
        boxes = zip(read_boxes(sheet), sheet.boxes, strict=True)
        return {box.number: sketch_of(cut_out(box.character, place)) for box, place in boxes if box.character}

    one, again, other = (sketches(paper_of(PAGE, pupil), photo) for pupil, photo in ((0, 0), (0, 1), (1, 2)))
    assert likeness(one, again) > 0.95 and likeness(one, other) < 0.75 and likeness(one, {}) == 0
    assert is_same_sheet(one, again) and not is_same_sheet(one, other)
    few = dict(list(one.items())[:2])
    assert not is_same_sheet(few, few) and is_same_sheet(one, few, [*one][2:])  # two boxes alone don't tell
    assert not is_same_sheet(one, dict([*few.items()][:1]), [*one][1:])  # nor does one that is left
    part = dict(list(one.items())[:1])
    assert likeness(one, part) < 0.5 and likeness(part, one) < 0.5  # another box alone tells that they differ


# --- what is in the way ---


def test_a_path_that_does_not_exist_leaves_nothing_behind(run):
    status, _, stderr = run("none/page.jpg")
    assert status == 1 and "page.jpg: can't be read (No such file or directory)" in stderr
    assert stderr.endswith("no character was collected; see the warnings above\n")
    assert not Path("characters").exists()
    scan("scans/one.png")
    run("scans", "none/page.jpg")
    assert len(rows_of()) == 6  # none of that path


def test_what_cannot_be_used_is_named_and_listed_and_the_rest_is_collected(run):
    scan("scans/good.png")
    shutil.copy("scans/good.png", "scans/broken.png")
    with open("scans/broken.png", "r+b") as file:
        file.truncate(5000)
    save("scans/blank.png", np.full((900, 700, 3), 255, np.uint8))
    paper = paper_of(PAGE, 1).copy()
    save("scans/half.png", paper[: len(paper) // 2])
    left, top, side = (round(each * REDUCED * sheets.DPI / 25.4) for each in (*CODE_AT, CODE))
    paper[top : top + side, left : left + side // 2] = 255
    save("scans/coded.png", paper)
    save("scans/answers.png", sheets.printed(pages_of([], 5)[0]))
    Path("scans/phone.heic").write_bytes(b"\0\0\0\x18ftypheic" + bytes(20))
    Path("scans/notes.txt").write_text("no picture")
    for earlier in ("", "; 1 had been read before"):
        status, stdout, stderr = run()
        lines = [line.removeprefix("[WARNING] ").replace(os.sep, "/") for line in stderr.splitlines()]
        reasons = {line.split(": ")[0]: line.split(": ", 1)[1] for line in lines}
        assert status == 0 and len(lines) == len(reasons) == 7
        assert reasons["scans/blank.png"] == "shows no sheet; the markers in its corners must be seen"
        assert reasons["scans/broken.png"].startswith("is damaged or cut short")
        assert reasons["scans/half.png"].startswith("only 2 of the 4 markers")
        assert reasons["scans/coded.png"].startswith("the square code")
        assert reasons["scans/answers.png"] == "shows an answer sheet, whose boxes have no labels; --key marks it"
        assert reasons["scans/phone.heic"].startswith("is a HEIC photo")
        assert reasons["skipped, for the content is not that of a picture"] == "scans/notes.txt"
        assert f"; 6 pictures without a sheet{earlier}; " in stdout
        listed = {Path(row.scan).name: row.reason for row in rows_of() if not row.sheet}
        assert listed == {Path(name).name: reason for name, reason in reasons.items() if "/" in name}
        assert sorted(files_in()) == [name.replace("one", "good") for name in ONE]


@pytest.mark.parametrize("kind", ["no files", "no sheet", "no ink"])
def test_if_there_is_nothing_to_collect_the_exit_status_says_so(run, kind):
    os.mkdir("scans")
    if kind == "no sheet":
        save("scans/blank.png", np.full((900, 700, 3), 255, np.uint8))
    if kind == "no ink":
        save("scans/empty.png", sheets.printed(PAGE))
    status, _, stderr = run()
    expected = {
        "no files": "there is no picture to read; name scans of sheets, or folders that hold them",
        "no sheet": "no character was collected; 1 picture without a sheet; characters/sheets.csv lists them",
        "no ink": "no character was collected; 6 empty, 0 crossed out; characters/sheets.csv lists them",
    }
    assert status == 1 and stderr.splitlines()[-1].replace(os.sep, "/") == f"predict.py: error: {expected[kind]}"
    assert os.path.exists("characters") is (kind != "no files")


@pytest.mark.slow
def test_sheets_of_several_pupils_pages_and_folders_have_names_apart(run):
    both = np.hstack([paper_of(PAGE, 1), paper_of(PAGE, 2)])
    photo("scans/b/1.png", both)
    save("scans/a/1.tif", paper_of(PAGE, 3), np.full((900, 700, 3), 255, np.uint8), paper_of(PAGE, 4))
    scan("scans/1.png", seed=5)
    scan("other/1.png", seed=6)
    status, _, stderr = run("scans", "other/1.png", "-r")
    page = os.path.join("scans", "a", "1.tif")
    assert status == 0
    assert stderr == f"[WARNING] {page}[2]: shows no sheet; the markers in its corners must be seen\n"
    names = dict.fromkeys((row.sheet, row.picture) for row in rows_of() if row.file)
    assert [*names] == [
        ("1", "1"), ("a-1-1", "1"), ("a-1-3", "3"), ("b-1-1", "1"), ("b-1-2", "1"), ("1-1", "1")
    ]  # fmt: skip
    assert len(files_in()) == 6 * 4


@pytest.mark.slow
def test_a_label_that_can_be_no_folder_has_another_one_that_stays(run):
    (page,) = pages_of(["/", ".", "CON", "a", "A", "か"], 1)
    save("scans/1.png", paper_of(page, 0, (), ()))
    status, stdout, _ = run()
    expected = {"/": "_-1", ".": "_", "CON": "_CON", "a": "a", "A": "A-1", "か": "か"}
    assert status == 0 and {row.label: row.file.split("/")[0] for row in rows_of()} in (
        expected, expected | {"/": "_", ".": "_-1"}
    )  # fmt: skip
    used = {row.label: row.file.split("/")[0] for row in rows_of()}
    others = ", ".join(sorted(f"{folder} for {label}" for label, folder in used.items() if folder != label))
    assert f"[INFO] folders that can't be called as their label: {others}\n" in stdout
    (reverse,) = pages_of(["A", "a", ".", "_", "/"], 1)
    save("scans/2.png", paper_of(reverse, 1, (), ()))
    run()
    assert {row.label: row.file.split("/")[0] for row in rows_of()} == used | {"_": "_-2"}


@pytest.mark.parametrize("arguments, message", [
    (["scans", "--into", "scans/new"], "--into scans/new: is in scans, which is to be read; choose another folder"),
    (["scans", "--into", "."], "--into .: holds scans, which is to be read; choose another folder"),
    (["scans/one.png", "--into", "scans"], "--into scans: holds pictures that are to be read, in scans"),
    (["scans", "--into", "file"], "--into file: is a file; give the name of a folder"),
    (["scans", "--into", "foreign"], "sheets.csv: was not written by predict.py --into, or has been changed"),
    (["scans", "--into", "linked"], "linked/a: is a link, not the folder of a class; choose another folder"),
    (["scans", "--into", ""], "--collect needs scans, and --into, the folder to collect their characters in"),
    (["--into", "new"], "--collect needs scans, and --into, the folder to collect their characters in"),
    (["scans", "--into", "new", "--json"], "--json doesn't go with --collect, but with pictures"),
    (["scans", "--into", "new", "--draw"], "--draw and --collect don't go together"),
])  # fmt: skip
def test_what_cannot_be_done_is_refused_in_one_line_and_changes_nothing(run, arguments, message):
    scan("scans/one.png")
    Path("file").write_text("x")
    save("foreign/a/1.png", np.zeros((9, 9, 3), np.uint8))
    Path("foreign", SHEETS).write_text("file,number\n1,2\n")
    os.mkdir("linked")
    Path("linked/a").symlink_to(Path("scans").absolute())
    before = files_in(".")
    status, _, stderr = run(*arguments)
    assert status == 2 and stderr.count("\n") == 1 and message in stderr.replace(os.sep, "/")
    files = {name: content for name, content in files_in(".").items() if not name.endswith(".lock")}
    assert files == before


def test_into_belongs_to_collect(run, capfd):
    assert cli.run(predict.main, "predict.py", ["page.png", "--into", "x"]) == 2
    assert "--into doesn't go with pictures, but with --collect" in capfd.readouterr().err


def test_two_commands_do_not_collect_into_one_folder_at_once(run):
    scan("scans/one.png")
    os.mkdir("characters")
    with locked(Path("characters", SHEETS), "--into"):
        status, _, stderr = run()
    assert status == 2 and "another run is writing there" in stderr and files_in() == {}


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="signals are Unix's")
def test_a_killed_command_collects_the_rest_when_it_is_repeated(run, whole):
    command = [sys.executable, str(ROOT / "predict.py"), "--collect", "scans", "--into", "characters"]
    for count in (1, 3, 5, 8, 11):
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        while process.poll() is None and len([*Path("characters").glob("*/[!.]*.png")]) < count:
            pass
        process.kill()
        process.wait()
        for temporary in Path("characters").rglob(".*.tmp"):
            temporary.unlink()
    assert_collects_the_rest(run, whole)
