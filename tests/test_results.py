import csv
import io
import json

import pytest

from neural_lib.errors import UserError
from neural_lib.results import MEASURES, csv_text, differences, json_text, read_json

RUN = {"lr": 0.1, "shuffle": True}
ROWS = [{"run": 1, "epoch": epoch, **dict.fromkeys(MEASURES, 0.5), "val_f1": None, **RUN} for epoch in (1, 2)]
CONTENT = {"finished": [1], "failures": {"2": "out of memory"}, "varying": ["lr"], "runs": [RUN, RUN], "rows": ROWS}


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


def without(mapping: dict, name: str) -> dict:
    return {key: value for key, value in mapping.items() if key != name}


def harmed() -> list:
    """results.json with each of its parts missing or of another type, one at a time."""
    found = [without(CONTENT, name) for name in CONTENT if name != "varying"]
    found += [CONTENT | {name: other} for name in CONTENT for other in (None, 1, "x", {"a": 1}, [1.5], [[]])
              if (name, other) != ("varying", None)]  # fmt: skip
    found += [CONTENT | {"rows": [without(ROWS[0], name), ROWS[1]]} for name in ROWS[0]]
    found += [CONTENT | {"rows": [ROWS[0] | {name: other}, ROWS[1]]} for name in ("run", "epoch", *MEASURES)
              for other in ("1", [])]  # fmt: skip
    found += [CONTENT | change for change in (
        {"finished": [3]}, {"finished": [2]}, {"finished": [True]}, {"failures": {"3": "x"}}, {"failures": {"x": "x"}},
        {"failures": {"1": 1}}, {"rows": [ROWS[0] | {"run": 3}]}, {"varying": ["nothing"]}, {"runs": [RUN, {"lr": 1}]},
    )]  # fmt: skip
    return found


@pytest.mark.parametrize("content", harmed())
def test_a_file_that_lacks_something_or_holds_another_type_is_told_in_one_line(tmp_path, content):
    path = tmp_path / "results.json"
    path.write_text(json.dumps({"format": "neural_lib results", "format_version": 1, **content}))
    with pytest.raises(UserError, match="results.json: is no results file of this version"):
        read_json(path)


def test_a_file_from_before_the_varying_names_were_recorded_is_read(tmp_path):
    path = tmp_path / "results.json"
    path.write_text(json_text(**without(CONTENT, "varying")))
    assert read_json(path) == CONTENT | {"varying": []}


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
