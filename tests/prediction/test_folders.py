"""Folders that commands fill: the names of classes' folders and files, and the table that a command continues from."""

import csv
import os
from pathlib import Path
from typing import NamedTuple

import pytest

from neural_lib.prediction.folders import Table, class_folders, place_file, portable
from neural_lib.system.errors import UserError


@pytest.mark.parametrize("classes, folders", [
    (["ants", "bees 2", "naïve"], ["ants", "bees 2", "naïve"]),
    (["a/b", "a\\b", "a_b"], ["a_b-1", "a_b-2", "a_b"]),
    (["..", ".", "", " ", "a. ", "x\n\x1b"], ["__", "_", "_-1", "_-2", "a._", "x__"]),
    (["con", "Lpt1.x", "console"], ["_con", "_Lpt1.x", "console"]),
    (["unsure", "Unsure", "answers.csv", "Sheets.csv"], ["unsure-1", "Unsure-2", "answers-1.csv", "Sheets-1.csv"]),
    (["Ant", "ant", "ANT", "ant-1"], ["Ant", "ant-1", "ANT-2", "ant-1-1"]),
    (["\u00e9", "e\u0301"], ["\u00e9", "e\u0301-1"]),
    (["か" * 100, "か" * 101, f"a.{'b' * 300}"], ["か" * 66, "か" * 66 + "-1", f"a.{'b' * 198}"]),
])  # fmt: skip
def test_each_class_has_a_folder_with_a_safe_name(classes, folders):
    assert class_folders(classes) == folders
    assert all(Path(portable(each)).name == portable(each) != ".." for each in classes)


def test_a_class_keeps_the_folder_that_it_has():
    known = {"A": "A", "b": "elsewhere"}
    assert class_folders(["a", "A", "b", "Elsewhere"], known) == ["a-1", "A", "elsewhere", "Elsewhere-1"]


def test_a_file_is_placed_beside_others_and_one_that_is_there_is_taken_for_it(tmp_path):
    def place(content: bytes, *taken: str) -> str:
        return place_file(tmp_path, "a/1.png", content, taken.__contains__)

    assert place(b"one") == place(b"one") == "a/1.png"
    assert place(b"two") == "a/1-1.png"
    assert place(b"one", "a/1.png") == "a/1-2.png"  # that one belongs to another row
    (tmp_path / "a/1.png").unlink()
    (tmp_path / "a/1.png").symlink_to(tmp_path / "a/1-1.png")
    assert place(b"two", "a/1-1.png") == "a/1-3.png"
    assert sorted(os.listdir(tmp_path / "a")) == ["1-1.png", "1-2.png", "1-3.png", "1.png"]


class Row(NamedTuple):
    name: str
    count: str


def test_a_table_gives_back_its_rows_whatever_is_missing_at_its_end(tmp_path):
    table, rows = Table(tmp_path / "t.csv", Row, "--into"), [Row("a", "12"), Row('"か"\n,', "-1"), Row("", "345")]
    assert table.read() == []
    table.tidy([])
    assert table.read() == []
    table.append(rows[:1])
    table.append(rows[1:])
    assert table.read() == rows
    content = table.path.read_bytes()
    for missing in range(2, 8):  # of the last row, "345" CR LF: each part of it may be a number, too
        table.path.write_bytes(content[:-missing])
        assert table.read() == rows[:2] + rows[2:] * (missing == 1)
        table.tidy(table.read())
        table.append(rows[2:])
        assert table.path.read_bytes() == content
    before = table.path.stat().st_mtime_ns
    table.tidy(rows)
    assert table.path.stat().st_mtime_ns == before
    table.path.write_text("name,number\n")
    with pytest.raises(UserError, match="was not written by predict.py --into, or has been changed"):
        table.check()


@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
def test_a_table_that_a_spreadsheet_saved_is_read(tmp_path, delimiter):
    rows = [Row("a;b", "12"), Row("a,b", "3")]
    with (tmp_path / "t.csv").open("w", encoding="utf-8", newline="") as file:
        csv.writer(file, delimiter=delimiter).writerows([Row._fields, *rows])
    assert Table(tmp_path / "t.csv", Row, "--into").read() == rows
