"""results.csv and results.json: how a grid's records are written and read again."""

import csv
import io
import json
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path

from neural_lib.config import flag_of, shown
from neural_lib.errors import UserError

FORMAT = "neural_lib results"
FORMAT_VERSION = 1
MOST_TOLD = 60  # characters of a hyper-parameter's values, in a message
CONTENT = ("finished", "failures", "runs", "rows")  # see records.Records; "varying" came later
MEASURES = (
    "train_loss",  # mean per image, nats
    "train_accuracy",  # 0 to 1
    "val_loss",
    "val_accuracy",
    "val_f1",  # macro, 0 to 1
    "epoch_duration",  # seconds, of training and validation
    "run_duration",  # seconds since the run began
)


def csv_text(columns: Sequence[str], rows: Sequence[Mapping[str, object]]) -> str:
    """A line of names, then one for each row; what a row lacks is empty."""
    text = io.StringIO()
    table = csv.DictWriter(text, columns, lineterminator="\n")
    table.writeheader()
    table.writerows(rows)
    return text.getvalue()


def json_text(**content: object) -> str:
    """An object that says what it is; of a list of objects or lists each has a line, so that a person can read it too.

    It is a results file unless `content` says otherwise.
    """

    def text(value: object) -> str:
        if isinstance(value, list) and value and isinstance(value[0], dict | list):
            return "[\n" + ",\n".join(f"  {json.dumps(item, default=str)}" for item in value) + "\n ]"
        return json.dumps(value)

    whole = {"format": FORMAT, "format_version": FORMAT_VERSION, **content}
    return "{\n" + ",\n".join(f' "{name}": {text(value)}' for name, value in whole.items()) + "\n}\n"


def read_json(path: str | Path) -> dict | None:
    """What json_text wrote, None where there is no such file. Raises UserError where it is something else."""
    try:
        content = json.loads(Path(path).read_bytes())
        known = (content["format"], content["format_version"]) == (FORMAT, FORMAT_VERSION)
        if not known or not _is_complete(content):
            raise ValueError
        return {"varying": [], **{key: content[key] for key in (*CONTENT, "varying") if key in content}}
    except FileNotFoundError:
        return None
    except (OSError, ValueError, LookupError, TypeError, AttributeError):
        raise UserError(
            f"{path}: is no results file of this version; delete it, or give a --model in another folder"
        ) from None


def _is_complete(content: Mapping[str, object]) -> bool:
    # every key that a reader asks for, of the right type; LookupError and TypeError mean no as well
    finished, failures, runs, rows = (content[key] for key in CONTENT)
    numbers = range(1, len(runs) + 1)

    def is_row(row: Mapping[str, object]) -> bool:
        measures = [row[name] for name in MEASURES]
        return (
            _is_whole(row["run"])
            and row["run"] in numbers
            and _is_whole(row["epoch"])
            and all(value is None or isinstance(value, int | float) for value in measures)
            and row.keys() >= runs[row["run"] - 1].keys()
        )

    return (
        bool(runs)
        and all(isinstance(each, list) for each in (finished, runs, rows))
        and all(isinstance(run, dict) and run.keys() == runs[0].keys() for run in runs)
        and all(isinstance(row, dict) and is_row(row) for row in rows)
        and all(_is_whole(run) and any(row["run"] == run for row in rows) for run in finished)
        and all(isinstance(name, str) and name in runs[0] for name in content.get("varying", []))
        and all(int(run) in numbers and isinstance(reason, str) for run, reason in failures.items())
    )


def _is_whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def check_is_ours(path: str | Path, first: str) -> None:
    """Raise UserError where there is a file that begins otherwise than with `first`, as ours do."""
    try:
        with open(path, encoding="utf-8", errors="replace") as handle:
            start = handle.read(len(first))
    except FileNotFoundError:
        return
    if start not in (first, ""):
        raise UserError(f"{path}: is no file of train.py's; move it, or choose another folder")


def differences(there: Sequence[Mapping[str, object]], here: Sequence[Mapping[str, object]]) -> list[str]:
    """What tells two grids apart, by the values of each hyper-parameter: "--lr 0.01 there, 0.1 here"."""

    def values(runs: Sequence[Mapping[str, object]], name: str) -> str:
        told = " ".join(dict.fromkeys(shown(run[name]) if name in run else "nothing" for run in runs))
        return textwrap.shorten(told, MOST_TOLD, placeholder=" ...")

    names = dict.fromkeys([*there[0], *here[0]])
    told = [(name, values(there, name), values(here, name)) for name in names]
    differing = [f"{flag_of(name)} {old} there, {new} here" for name, old, new in told if old != new]
    return differing or (["their runs are in another order"] if list(there) != list(here) else [])
