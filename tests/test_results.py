import csv
import io
import json

import pytest

from neural_lib.errors import UserError
from neural_lib.results import csv_text, differences, json_text, read_json

ROWS = [{"run": 1, "epoch": 1, "lr": 0.1, "shuffle": True}, {"run": 1, "epoch": 2, "lr": 0.1, "shuffle": True}]
CONTENT = {"finished": [1], "failures": {}, "runs": [{"lr": 0.1, "shuffle": True}], "rows": ROWS}


def test_csv_has_names_then_a_line_a_row_with_every_digit():
    text = csv_text(["run", "val_loss", "failure"], [{"run": 1, "val_loss": 1 / 3}, {"run": 2, "failure": "a, b"}])
    rows = list(csv.DictReader(io.StringIO(text)))
    assert float(rows[0]["val_loss"]) == 1 / 3
    assert rows[1] == {"run": "2", "val_loss": "", "failure": "a, b"}


def test_json_is_read_as_it_was_written_and_has_a_line_a_row(tmp_path):
    path = tmp_path / "results.json"
    text = json_text(**CONTENT)
    path.write_text(text)
    assert json.loads(text)["format"] and read_json(path) == CONTENT
    assert sum("epoch" in line for line in text.splitlines()) == len(ROWS)


def test_no_file_is_nothing(tmp_path):
    assert read_json(tmp_path / "results.json") is None


@pytest.mark.parametrize(
    "content",
    ["", "{", "[]", "null", "{}", json_text(**CONTENT)[:-20], json_text(**CONTENT | {"runs": []}),
     json_text(**CONTENT | {"runs": {"a": 1}}),
     json_text(**CONTENT).replace('"format_version": 1', '"format_version": 2'), "\udcff"],
)  # fmt: skip
def test_another_file_is_told_in_one_line(tmp_path, content):
    path = tmp_path / "results.json"
    path.write_bytes(content.encode(errors="surrogateescape"))
    with pytest.raises(UserError, match="results.json: is no results file of this version"):
        read_json(path)


def test_two_grids_are_told_apart_by_the_values_of_each_option():
    here = [{"lr": 0.1, "batch_size": 64, "shuffle": True}, {"lr": 0.2, "batch_size": 64, "shuffle": True}]
    there = [{"lr": 0.1, "batch_size": 32, "shuffle": False}]
    assert differences(there, here) == [
        "--lr 0.1 there, 0.1 0.2 here",
        "--batch-size 32 there, 64 here",
        "--shuffle off there, on here",
    ]
    assert differences(here, here) == []
    assert differences(here, here[::-1]) == ["--lr 0.1 0.2 there, 0.2 0.1 here"]


def test_another_order_of_the_same_values_is_another_grid():
    runs = [{"lr": lr, "seed": seed} for lr in (0.1, 0.2) for seed in (1, 2)]
    other = [{"lr": lr, "seed": seed} for seed in (1, 2) for lr in (0.1, 0.2)]
    assert differences(runs, other) == ["their runs are in another order"]


def test_an_option_that_one_of_them_does_not_know_is_a_difference():
    assert differences([{"lr": 0.1}], [{"lr": 0.1, "arch": "lenet"}]) == ["--arch nothing there, lenet here"]
