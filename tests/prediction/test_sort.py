"""predict.py --sort-into: what is copied where, what answers.csv lists, and that the same command sorts the rest."""

import csv
import errno
import json
import os
import sys
from pathlib import Path

import made_up
import numpy as np
import pytest
import torch
from conftest import change_dataset
from PIL import Image

import predict
from neural_lib.prediction import command, folders
from neural_lib.prediction.recogniser import Recogniser
from neural_lib.prediction.sort import Row
from neural_lib.system import cli
from neural_lib.system.errors import escaped
from neural_lib.system.files import csv_bytes, csv_rows, locked, write_file

RED, GREEN, YELLOW = (200, 0, 0), (0, 200, 0), (100, 100, 0)  # ants, bees, unsure


@pytest.fixture
def colours(tmp_path, monkeypatch) -> None:
    """The current folder with model.pth, a network that takes red pictures for ants and green ones for bees."""
    monkeypatch.chdir(tmp_path)
    write_model(monkeypatch, ("ants", "bees"))

    def answers_of(self, images):
        red, green = (images[:, channel].float().mean((1, 2)) for channel in (0, 1))
        probabilities = torch.stack([red, green], dim=1) / (red + green)[:, None]
        return probabilities, torch.zeros(len(images), dtype=torch.bool)

    monkeypatch.setattr(Recogniser, "answers_of", answers_of)


def write_model(monkeypatch, classes: tuple[str, str]) -> None:
    change_dataset(monkeypatch, "cifar10", classes=classes)
    Path("model.pth").write_bytes(made_up.make_checkpoint("cifar10").to_bytes())


@pytest.fixture
def inbox(colours) -> Path:
    """inbox/ with six pictures, in their order: four ants, of which two have the same content, a bee, an unsure one."""
    for name, colour in zip("abcdef", (RED, RED, GREEN, (210, 0, 0), YELLOW, (220, 0, 0)), strict=True):
        put(f"inbox/{name}.png", colour)
        os.utime(f"inbox/{name}.png", ns=(10**18, 10**18 + ord(name)))
    return Path("inbox")


def put(path: str, colour: tuple[int, int, int], **options: object) -> Path:
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((40, 40, 3), colour, np.uint8)).save(path, **options)
    return Path(path)


@pytest.fixture
def run(capfd):
    """Run predict.py with model.pth and these arguments; returns exit status, stdout, stderr."""

    def run(*arguments: object) -> tuple[int, str, str]:
        status = cli.run(predict.main, "predict.py", ["--model", "model.pth", *map(str, arguments)])
        return status, *capfd.readouterr()

    return run


def rows_of(folder: str = "sorted") -> list[Row]:
    with open(f"{folder}/answers.csv", encoding="utf-8-sig", newline="") as file:
        titles, *rows = csv.reader(file)
    assert tuple(titles) == Row._fields
    return [Row(*row) for row in rows]


def files_in(folder: str | Path) -> dict[str, tuple[bytes, int]]:
    """Content and time of the last change of each file below a folder."""
    files = (path for path in Path(folder).rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): (path.read_bytes(), path.stat().st_mtime_ns) for path in files}


def copies_in(folder: str = "sorted") -> dict[str, tuple[bytes, int]]:
    return {name: state for name, state in files_in(folder).items() if name != "answers.csv"}


WHOLE = ["ants/a.png", "ants/b.png", "bees/c.png", "ants/d.png", "unsure/e.png", "ants/f.png"]


def test_each_picture_is_copied_into_the_folder_of_its_class(inbox, run, monkeypatch):
    monkeypatch.setattr(command, "is_display_available", lambda: True)  # no window is opened there
    before = files_in(inbox)
    status, stdout, stderr = run("inbox/", "--sort-into", "new/sorted")
    assert (status, stderr) == (0, "")
    assert stdout.replace(os.sep, "/").endswith(
        "[INFO] sorted 6 pictures into new/sorted: 4 ants, 1 bees, 1 unsure; new/sorted/answers.csv lists them\n"
    )
    assert stdout.count(".png") == 6  # the table
    assert copies_in("new/sorted") == {copy: before[copy.split("/")[1]] for copy in WHOLE}  # time stamps, too
    rows = rows_of("new/sorted")
    assert [row.copy for row in rows] == WHOLE
    path = os.path.realpath("inbox/c.png")
    size, modified = Path(path).stat().st_size, 10**18 + ord("c")
    assert rows[2] == (path, "bees", "1.0000", "true", "bees/c.png", "", str(size), str(modified))
    assert rows[4][1:4] == ("ants", "0.5000", "false")
    assert files_in(inbox) == before and sorted(os.listdir()) == ["inbox", "model.pth", "new"]


@pytest.fixture
def sort_again(inbox, run):
    """Sort the inbox, and expect that everything has been copied once; returns stdout."""

    def sort_again(*arguments: object) -> str:
        status, stdout, _ = run("inbox", "--sort-into", "sorted", *arguments)
        assert status == 0
        assert copies_in() == {copy: files_in(inbox)[copy.split("/")[1]] for copy in WHOLE}
        assert sorted(row.copy for row in rows_of()) == sorted(WHOLE)
        return stdout

    return sort_again


@pytest.mark.parametrize("is_copied", [False, True])
def test_an_interrupted_command_sorts_the_rest_when_it_is_repeated(inbox, run, sort_again, monkeypatch, is_copied):
    copied = []

    def interrupt(path, make):
        copied.append(path) if path.suffix == ".png" else None
        if len(copied) != 3 or is_copied:
            write_file(path, make)
        if len(copied) == 3:  # after its copy, too, its row is missing
            raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(folders, "write_file", interrupt)
        status, _, stderr = run("inbox", "--sort-into", "sorted")
    line = "predict.py: error: interrupted; 2 pictures are sorted, and the same command sorts the rest\n"
    assert (status, stderr) == (130, line)
    assert [row.copy for row in rows_of()] == WHOLE[:2] and len(copies_in()) == 2 + is_copied
    assert "sorted 4 pictures into sorted: 2 ants, 1 bees, 1 unsure; 2 had been sorted before;" in sort_again()
    log = sort_again()
    assert "sorted 0 pictures into sorted; 6 had been sorted before;" in log and "answered" not in log


def test_a_full_disk_ends_the_command_in_one_line_and_nothing_is_half_there(inbox, run, sort_again, monkeypatch):
    def fail(source, target, replace=os.replace):
        if Path(target).name == "d.png":
            raise OSError(errno.ENOSPC, "No space left on device")
        replace(source, target)

    with monkeypatch.context() as patched:
        patched.setattr(os, "replace", fail)
        status, _, stderr = run("inbox", "--sort-into", "sorted")
    assert status == 1 and stderr.replace(os.sep, "/") == (
        "predict.py: error: sorted/ants/d.png: No space left on device; 3 pictures are sorted, and the same command "
        "sorts the rest\n"
    )
    assert sorted(copies_in()) == sorted(WHOLE[:3])
    sort_again()


@pytest.mark.parametrize("missing", [1, 2, 30, 100])
def test_a_row_that_was_cut_off_is_written_again(sort_again, missing):
    sort_again()
    whole = Path("sorted/answers.csv").read_bytes()
    Path("sorted/answers.csv").write_bytes(whole[:-missing])
    sort_again()
    assert Path("sorted/answers.csv").read_bytes() == whole


def test_what_is_no_longer_as_it_was_is_sorted_again(inbox, sort_again, run):
    sort_again()
    os.remove("sorted/ants/a.png")  # a copy
    assert "sorted 1 picture into sorted: 1 ants; 5 had" in sort_again()
    os.utime("inbox/b.png", ns=(10**18, 10**18 + 99))  # a picture's time; its content is that of the copy
    copy = os.stat("sorted/ants/b.png").st_ino
    assert "sorted 1 picture into sorted: 1 ants; 5 had" in sort_again()
    assert os.stat("sorted/ants/b.png").st_ino == copy
    put("inbox/a.png", GREEN)  # another picture of the same name
    put("inbox/d.png", YELLOW)
    put("inbox/f.png", GREEN)
    os.remove("sorted/ants/f.png")  # its row goes, too
    earlier = copies_in()
    assert "sorted 3 pictures into sorted: 2 bees, 1 unsure; 3 had" in run(inbox, "--sort-into", "sorted")[1]
    new = {copy: files_in(inbox)[copy.split("/")[1]] for copy in ("bees/a.png", "unsure/d.png", "bees/f.png")}
    assert copies_in() == earlier | new
    assert sorted(row.copy for row in rows_of()) == sorted([*earlier, *new])


def test_a_name_that_is_there_already_gets_a_number(colours, run):
    for path, colour in {"in/x/1.png": RED, "in/y/1.png": RED, "in/z/1.png": (210, 0, 0), "2.png": RED}.items():
        put(path, colour)
    foreign = put("sorted/ants/1.png", GREEN)
    content = foreign.read_bytes()
    assert run("in/", "2.png", "in/y", "-r", "--sort-into", "sorted/")[0] == 0
    assert foreign.read_bytes() == content
    expected = {"1-1.png": "in/x/1.png", "1-2.png": "in/y/1.png", "1-3.png": "in/z/1.png", "2.png": "2.png"}
    copies = {f"ants/{copy}": Path(path).read_bytes() for copy, path in expected.items()}
    assert {name: state[0] for name, state in copies_in().items()} == copies | {"ants/1.png": content}
    assert [(row.path, row.copy) for row in rows_of()] == [
        (os.path.realpath(path), f"ants/{copy}") for copy, path in expected.items()
    ]
    Path("sorted/ants/2.png").unlink()
    os.link("2.png", "3.png")
    Path("sorted/ants/3.png").symlink_to(Path("3.png").absolute())  # is no copy, though its content is equal
    assert run("3.png", "--sort-into", "sorted/")[0] == 0 and rows_of()[-1].copy == "ants/3-1.png"


def test_what_cannot_be_read_is_listed_with_its_reason_and_tried_again(inbox, run):
    Path("inbox/broken.png").write_bytes(Path("inbox/a.png").read_bytes()[:60])
    Path("inbox/phone.heic").write_bytes(b"\0\0\0\x18ftypheic" + bytes(20))
    Path("inbox/notes.txt").write_text("no picture")
    for _ in range(2):
        status, stdout, _ = run("inbox", "nowhere.png", "--sort-into", "sorted")
        assert status == 0 and "; 3 got no answer; " in stdout
        failures = {Path(row.path).name: row for row in rows_of() if not row.copy}
        assert {name: row.reason.split(";")[0] for name, row in failures.items()} == {
            "phone.heic": "is a HEIC photo",
            "broken.png": "is damaged or cut short (image file is truncated)",
            "nowhere.png": "can't be read (No such file or directory)",
        }
        assert all(row.label == row.probability == row.sure == "" for row in failures.values())
        assert sorted(copies_in()) == sorted(WHOLE)
    put("inbox/broken.png", GREEN)
    assert run("inbox", "nowhere.png", "--sort-into", "sorted")[0] == 0
    assert [row.copy for row in rows_of() if "broken" in row.path] == ["bees/broken.png"]
    assert run("nowhere.png", "--sort-into", "other")[::2] == (1, (
        "[WARNING] nowhere.png: can't be read (No such file or directory)\n"
        "predict.py: error: no picture was answered; see the warnings above\n"
    ))  # fmt: skip


def test_a_picture_that_vanishes_before_it_is_copied_is_listed(inbox, run, monkeypatch):
    def read_files(self, *args, read_files=Recogniser.read_files, **options):
        for reading in read_files(self, *args, **options):
            if reading.source.path.name == "b.png":
                os.remove("inbox/b.png")
            yield reading

    monkeypatch.setattr(Recogniser, "read_files", read_files)
    status, stdout, stderr = run("inbox", "--sort-into", "sorted")
    assert status == 0 and "b.png: can't be read (No such file or directory)" in stderr
    assert stdout.count("b.png") == 0 and rows_of()[1].reason == "can't be read (No such file or directory)"
    assert sorted(copies_in()) == sorted({*WHOLE} - {"ants/b.png"})


def test_a_file_of_several_pages_goes_by_the_first(colours, run):
    others = [Image.new("RGB", (40, 40), colour) for colour in (GREEN, YELLOW)]
    path = put("scan.tif", RED, save_all=True, append_images=others)
    status, stdout, _ = run(path, "--sort-into", "sorted", "--json")
    answers = [json.loads(line) for line in stdout.splitlines()]
    assert status == 0 and [(each["path"], each["label"]) for each in answers] == [("scan.tif", "ants")]
    assert copies_in() == {"ants/scan.tif": files_in(".")["scan.tif"]}


@pytest.mark.skipif(sys.platform != "linux", reason="other systems have no such names")
def test_odd_names_are_copied_under_safe_ones_and_found_again(colours, run):
    for name in (os.fsdecode(b"\xff"), "a:b\n?", "か", "x" * 250, "CON", "é, ", "\x1b", r"\x1b"):
        put(f"in/{name}.png", RED)
    for _ in range(2):
        assert run("in", "--sort-into", "sorted")[0] == 0
        copies = {row.path.rpartition("/")[2]: row.copy for row in rows_of()}
        assert copies == {
            "\\udcff.png": "ants/_-1.png",
            "a:b\\n?.png": "ants/a_b__.png",
            "か.png": "ants/か.png",
            f"{'x' * 250}.png": f"ants/{'x' * 196}.png",
            "CON.png": "ants/_CON.png",
            "é, .png": "ants/é, .png",
            r"\x1b.png": "ants/_.png",
            r"\\x1b.png": "ants/_x1b.png",
        }
        assert sorted(copies_in()) == sorted(copies.values())


def test_classes_with_odd_names_stay_in_the_folder(inbox, run, monkeypatch):
    write_model(monkeypatch, ("../x", "unsure"))
    assert run("inbox", "--sort-into", "sorted")[0] == 0
    assert sorted(os.listdir("sorted")) == ["_._x", "answers.csv", "unsure", "unsure-1"]
    assert (rows_of()[0].label, rows_of()[2].copy) == ("../x", "unsure-1/c.png")
    assert sorted(os.listdir()) == ["inbox", "model.pth", "sorted"]


@pytest.mark.parametrize("arguments, message", [
    (["inbox", "--sort-into", "inbox/sorted"], "--sort-into inbox/sorted: is in inbox, which is to be sorted"),
    (["inbox/", "--sort-into", "inbox"], "--sort-into inbox: is in inbox, which is to be sorted"),
    (["link", "--sort-into", "inbox/new"], "--sort-into inbox/new: is in link, which is to be sorted"),
    (["inbox", "--sort-into", "link/new/sorted"], "--sort-into link/new/sorted: is in inbox, which is to be sorted"),
    (["inbox", "--sort-into", "deep/x"], "--sort-into deep/x: is in inbox, which is to be sorted"),
    (["in*", "--sort-into", "link/sorted"], "--sort-into link/sorted: is in inbox, which is to be sorted"),
    (["inbox", "--sort-into", "."], "--sort-into .: holds inbox, which is to be sorted"),
    (["inbox/a.png", "--sort-into", "link"], "--sort-into link: holds pictures that are to be sorted, in inbox"),
    (["inbox/a.png", "inbox/b.png", "--sort-into", "inbox/new"], "new: is in inbox, which holds pictures to be sorted"),
    (["inbox/*.png", "--sort-into", "link/x/y"], "link/x/y: is in inbox, which holds pictures to be sorted"),
    (["inbox", "--sort-into", "file"], "--sort-into file: is a file; give the name of a folder"),
    (["inbox", "--sort-into", ""], "--sort-into needs the name of a folder"),
    (["inbox", "--sort-into", "foreign"], "answers.csv: was not written by predict.py --sort-into, or has been change"),
    (["inbox", "--sort-into", "holder"], "answers.csv: is a folder; give the name of a file"),
    (["inbox", "--sort-into", "linked"], "answers.csv: is a link; remove it"),
    (["inbox", "--sort-into", "into"], "ants: is a link, not the folder of a class; choose another folder"),
    (["inbox", "--sort-into", "blocked"], "unsure: is a file, not the folder of a class; choose another folder"),
    (["inbox", "--sort-into", "x", "--output", "p.png"], "--output, --show and --show-input don't go with --sort-into"),
    (["inbox", "--sort-into", "x", "--show"], "--output, --show and --show-input don't go with --sort-into"),
    (["inbox", "--sort-into", "x", "--order", "columns"], "--order doesn't go with --sort-into"),
    (["--sort-into", "x"], "--sort-into doesn't go with test images, but with pictures"),
])  # fmt: skip
def test_what_cannot_be_sorted_is_refused_in_one_line_and_changes_nothing(inbox, run, arguments, message):
    for path in ("file", "foreign/answers.csv", "blocked/unsure"):
        Path(path).parent.mkdir(exist_ok=True)
        Path(path).write_bytes("path,Größe\r\n".encode("latin-1"))
    os.makedirs("inbox/folder/in it")
    os.makedirs("holder/answers.csv")
    links = {"link": "inbox", "deep": "inbox/folder", "into/ants": "inbox", "linked/answers.csv": "foreign/answers.csv"}
    for link, target in links.items():
        Path(link).parent.mkdir(exist_ok=True)
        Path(link).symlink_to(Path(target).absolute())
    if "the folder of a class" not in message:
        Path("model.pth").write_bytes(b"")  # is refused, too, but later
    before = sorted(Path().rglob("*")), files_in(".")
    status, _, stderr = run(*arguments)
    assert status == 2 and stderr.count("\n") == 1
    assert message in stderr.replace(os.sep, "/")
    assert (sorted(Path().rglob("*")), files_in(".")) == before


def test_pictures_beside_the_folder_are_sorted_into_it(inbox, run):
    os.chdir(inbox)
    os.rename("../model.pth", "model.pth")
    assert run("a.png", "c.png", "--sort-into", "sorted")[0] == 0
    assert sorted(copies_in()) == ["ants/a.png", "bees/c.png"]
    os.mkdir("work")
    os.chdir("work")
    os.rename("../model.pth", "model.pth")
    assert "../new: is in .., which holds" in run("../a.png", "--sort-into", "../new")[2].replace(os.sep, "/")
    assert run("../a.png", "--sort-into", "sorted")[0] == 0 and sorted(copies_in()) == ["ants/a.png"]


def test_a_picture_moved_by_hand_to_its_right_class_is_not_sorted_again(inbox, run):
    put("inbox/x/e[1].png", YELLOW)
    other = put("inbox/x/d.png", GREEN)

    def sort_again() -> str:
        status, stdout, _ = run("inbox", "-r", "--sort-into", "sorted")
        assert status == 0 and sorted(copies_in()) == sorted(row.copy for row in rows_of())
        return stdout

    sort_again()
    first = {row.copy: row for row in rows_of()}
    moved = {"unsure/e.png": "bees/e.png", "unsure/e[1].png": "bees/e[1].png", "ants/b.png": "by hand/b.png"}
    os.mkdir("sorted/by hand")
    for old, new in moved.items():
        os.rename(f"sorted/{old}", f"sorted/{new}")
    for _ in range(2):
        assert "sorted 0 pictures into sorted; 8 had been sorted before" in sort_again()
    assert {row.copy: row for row in rows_of()} == {
        moved.get(copy, copy): row._replace(copy=moved.get(copy, copy)) for copy, row in first.items()
    }
    assert other.stat().st_size == Path("sorted/ants/d.png").stat().st_size  # of another picture: not this one, moved
    os.remove("sorted/bees/d.png")
    assert "sorted 1 picture into sorted: 1 bees; 7 had" in sort_again()
    Path("sorted/ants/e.png").write_bytes(b"another picture")
    os.remove("sorted/bees/e.png")
    assert "sorted 1 picture into sorted: 1 unsure; 7 had" in run("inbox", "-r", "--sort-into", "sorted")[1]


def test_answers_can_be_opened_in_a_spreadsheet_and_saved_by_it(inbox, run, monkeypatch):
    write_model(monkeypatch, ('=HYPERLINK("http://x")', "-1"))
    assert run("inbox", "--sort-into", "sorted")[0] == 0
    content = Path("sorted/answers.csv").read_bytes()
    assert content.startswith(b"\xef\xbb\xbfpath,label,") and content.count(b"\xef\xbb\xbf") == 1
    assert [(row.label, row.copy) for row in rows_of()[1:3]] == [
        ('\'=HYPERLINK("http://x")', "'=HYPERLINK(_http___x_)/b.png"),
        ("'-1", "'-1/c.png"),
    ]
    saved = content[3:].replace(b"\r\n", b"\n")
    for text in (content, saved, b"\xef\xbb\xbf" + saved):
        Path("sorted/answers.csv").write_bytes(text)
        assert "sorted 0 pictures into sorted; 6 had been" in run("inbox", "--sort-into", "sorted")[1]
        assert Path("sorted/answers.csv").read_bytes() == content


def test_each_picture_is_one_thing_to_sort():
    assert predict.parse_args(["page.png", "--sort-into", "sorted"]).single


def test_two_commands_do_not_sort_into_one_folder_at_once(inbox, run):
    os.mkdir("sorted")
    with locked(Path("sorted/answers.csv"), "--sort-into"):
        status, _, stderr = run("inbox", "--sort-into", "sorted")
    assert status == 2 and "another run is writing there" in stderr and copies_in() == {}


def test_no_cell_is_a_formula_in_a_spreadsheet_and_each_is_read_back():
    risky = ["=1+1", "+1", "-1/a.png", "@x", "\tx", "\r=x", "\n=x", "\uff1d1", "'=1", "''-1"]
    plain = ["", "'", "'a", "a=1", " ", "か", '"a", b', "a\n=b", "1", "\ufeffa"]
    content = csv_bytes([risky, plain])
    assert content.startswith(b"\xef\xbb\xbf'=1+1,'+1,")
    rows = [*csv.reader(content.decode("utf-8-sig").splitlines(keepends=True))]
    assert rows == [[f"'{cell}" for cell in risky], plain]
    assert csv_rows(content) == csv_rows(content[3:]) == [risky, plain]
    assert csv_bytes([[1, os.fsdecode(b"\xff")]])[3:] == b"1,\\udcff\r\n" and csv_bytes([]) == content[:3]


@pytest.mark.skipif(os.name == "nt", reason="there a backslash separates folders")
def test_no_two_texts_are_escaped_alike():
    texts = {
        "a\x1b\n\x7f\x85": r"a\x1b\n\x7f\x85",
        r"a\x1b\n\x7f\x85": r"a\\x1b\\n\\x7f\\x85",
        os.fsdecode(b"\xff"): r"\udcff",
        "\u202f\u3000\xa0か😀'": "\u202f\u3000\xa0か😀'",
    }
    assert {text: escaped(text) for text in texts} == texts
