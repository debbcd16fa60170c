"""results.csv and results.json: how a grid's records are written and read again."""

import csv
import io
import json
from collections.abc import Mapping, Sequence
from itertools import product
from pathlib import Path

from neural_lib.errors import UserError
from neural_lib.files import check_output

FORMAT = "neural_lib results"
FORMAT_VERSION = 2  # 1 lacked what is in LATER
CONTENT = ("finished", "failures", "runs", "rows")  # see runs.RunManager
LATER = {"options": {}, "params": None, "tested": False}  # and what an older file is taken to say
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
        return json.dumps(value, default=str)

    whole = {"format": FORMAT, "format_version": FORMAT_VERSION, **content}
    return "{\n" + ",\n".join(f' "{name}": {text(value)}' for name, value in whole.items()) + "\n}\n"


def read_json(path: str | Path) -> dict | None:
    """What json_text wrote, None where there is no such file. Raises UserError where it is something else."""
    try:
        content = json.loads(Path(path).read_bytes())
        if content["format"] != FORMAT or content["format_version"] not in (1, FORMAT_VERSION):
            raise ValueError
        found = {**LATER, **content} if content["format_version"] == 1 else content
        if not _is_complete(found):
            raise ValueError
        return {key: found[key] for key in (*CONTENT, *LATER)}
    except FileNotFoundError:
        return None
    except (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError):
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
            and None not in measures[-2:]  # durations
            and row.keys() >= runs[row["run"] - 1].keys()
        )

    return (
        bool(runs)
        and all(isinstance(each, list) for each in (finished, runs, rows))
        and all(isinstance(run, dict) and run.keys() == runs[0].keys() for run in runs)
        and all(isinstance(row, dict) and is_row(row) for row in rows)
        and len(set(finished)) == len(finished)
        and all(_is_whole(run) and any(row["run"] == run for row in rows) for run in finished)
        and isinstance(content["tested"], bool)
        and all(isinstance(each, str) for item in content["options"].items() for each in item)
        and (content["params"] is None or _are_params(content["params"], runs))
        and all(int(run) in numbers and isinstance(reason, str) for run, reason in failures.items())
    )


def _are_params(params: Mapping[str, object], runs: Sequence[Mapping[str, object]]) -> bool:
    # the values whose combinations the runs are
    combinations = list(product(*params.values()))
    return len(combinations) == len(runs) and all(
        name in run and run[name] == value
        for run, values in zip(runs, combinations, strict=True)
        for name, value in zip(params, values, strict=True)
    )


def _is_whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def check_files(folder: Path) -> tuple[Path, Path]:
    """The two files of a folder. Raises UserError where one can't be written, or is somebody else's."""
    table, records = (
        check_output(folder / name, "--model's results", (Path(name).suffix,))
        for name in ("results.csv", "results.json")
    )
    check_is_ours(table, first="run,epoch,")
    read_json(records)
    return table, records


def check_is_ours(path: str | Path, first: str) -> None:
    """Raise UserError where there is a file that begins otherwise than with `first`, as ours do."""
    try:
        with open(path, encoding="utf-8", errors="replace") as handle:
            start = handle.read(len(first))
    except FileNotFoundError:
        return
    if start not in (first, ""):
        raise UserError(f"{path}: is no file of train.py's; move it, or choose another folder")
