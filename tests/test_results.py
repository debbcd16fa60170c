import csv
import io
import json

import pytest

from neural_lib.errors import UserError
from neural_lib.results import MEASURES, csv_text, json_text, read_json

RUN = {"lr": 0.1, "shuffle": True}
ROWS = [{"run": 1, "epoch": epoch, **dict.fromkeys(MEASURES, 0.5), "val_f1": None, **RUN} for epoch in (1, 2)]
OTHER = {"lr": 0.2, "shuffle": True}
CONTENT = {"finished": [1], "failures": {"2": "out of memory"}, "runs": [RUN, OTHER], "rows": ROWS}
CONTENT |= {"options": {"recipe": "best"}, "params": {"lr": [0.1, 0.2]}, "tested": False}


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
    ["", "{", "[]", "[" * 100_000, "null", "{}", json_text(**CONTENT)[:-20], json_text(**CONTENT | {"runs": []}),
     json_text(**CONTENT | {"runs": {"a": 1}}),
     json_text(**CONTENT).replace('"format_version": 2', '"format_version": 3'), "\udcff"],
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
    found = [without(CONTENT, name) for name in CONTENT]
    found += [CONTENT | {name: other} for name in CONTENT for other in (None, 1, "x", {"a": 1}, [1.5], [[]])
              if (name, other) != ("params", None)]  # fmt: skip
    found += [CONTENT | {"rows": [without(ROWS[0], name), ROWS[1]]} for name in ROWS[0]]
    found += [CONTENT | {"rows": [ROWS[0] | {name: other}, ROWS[1]]} for name in ("run", "epoch", *MEASURES)
              for other in ("1", [])]  # fmt: skip
    found += [CONTENT | change for change in (
        {"finished": [3]}, {"finished": [2]}, {"finished": [True]},
        {"finished": [1, 1]}, {"failures": {"3": "x"}}, {"failures": {"x": "x"}},
        {"failures": {"1": 1}}, {"rows": [ROWS[0] | {"run": 3}]}, {"runs": [RUN, {"lr": 1}]}, {"options": {"a": 1}},
        {"params": {"lr": [0.1]}}, {"params": {"lr": [0.1, 0.3]}}, {"params": {"x": [0.1, 0.2]}}, {"params": {"lr": 1}},
    )]  # fmt: skip
    return found


@pytest.mark.parametrize("content", harmed())
def test_a_file_that_lacks_something_or_holds_another_type_is_told_in_one_line(tmp_path, content):
    path = tmp_path / "results.json"
    path.write_text(json.dumps({"format": "neural_lib results", "format_version": 2, **content}))
    with pytest.raises(UserError, match="results.json: is no results file of this version"):
        read_json(path)


def test_a_file_of_the_first_format_is_read(tmp_path):
    path = tmp_path / "results.json"
    first = {name: CONTENT[name] for name in ("finished", "failures", "runs", "rows")}
    path.write_text(json_text(**first, format_version=1))
    assert read_json(path) == first | {"options": {}, "params": None, "tested": False}
