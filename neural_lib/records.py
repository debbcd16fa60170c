"""The records of runs: results.csv and results.json, which run and epoch is best."""

import csv
import io
import json
import math
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from neural_lib.config import format_values
from neural_lib.system.errors import UserError
from neural_lib.system.files import check_is_ours, check_output

TITLES = {  # column: its title on the terminal; a column is train_ or val_ and a field of RunningScores or Scores
    "train_loss": "train loss",  # mean per image, nats
    "train_accuracy": "train acc",  # 0 to 1
    "val_loss": "val loss",
    "val_accuracy": "val acc",
    "val_f1": "val f1",  # macro, 0 to 1; on the terminal only if it is monitored
}
MEASURES = (
    *TITLES,
    "epoch_duration",  # seconds, of training and validation, and of saving the epoch before
    "run_duration",  # seconds since the run began
)
RESULTS_FORMAT = {"format": "neural_lib results", "format_version": 2}
CONTENT = ("options", "params", "tested", "finished", "failures", "runs", "rows")  # see Records
OTHER_FOLDER = "move it, or choose another folder"


# --- one epoch ---


def epoch_figures(train: object, val: object | None) -> dict[str, float | None]:
    """The figures named in TITLES, from the training's and the validation's scores; None where there are none."""
    parts = {"train": train, "val": val}
    return {name: getattr(parts[part], field, None) for name in TITLES for part, field in [name.split("_", 1)]}


def monitored_score(measures: Mapping[str, float | None], monitor: str = "accuracy") -> tuple[float, float]:
    """The score of an epoch, the higher the better: validation's accuracy, macro F1, or minus its loss; then that loss.

    The latter decides between equals, which are frequent among few images. Training's accuracy or loss where nothing
    was validated; the loss where no accuracy is known; -inf where nothing is.
    """
    score = accuracy_of(measures) if measures["val_accuracy"] is None else measures[f"val_{monitor}"]
    loss = measures["train_loss" if measures["val_loss"] is None else "val_loss"]
    negative = -math.inf if loss is None else -loss
    return (negative if monitor == "loss" or score is None else score), negative


def accuracy_of(measures: Mapping[str, float | None]) -> float | None:
    """Validation's accuracy, or training's where nothing was validated; None where that is not known either."""
    return measures["train_accuracy" if measures["val_accuracy"] is None else "val_accuracy"]


def figure_text(value: float | None) -> str:
    """A loss or an accuracy as text for a table; short enough for a column even if the loss diverges."""
    if value is None:
        return "-"
    return f"{value:.4f}" if value < 10_000 else f"{value:.2e}"


# --- all runs ---


class Spread(NamedTuple):
    """The validation accuracies of the best epochs of runs that differ only in their seed."""

    hyperparameters: dict  # the other swept ones
    mean: float
    deviation: float  # standard deviation of the sample
    count: int


class Records:
    """The runs of a command, their hyper-parameters and the figures of their epochs.

    Runs are counted from 1. params: the values of each hyper-parameter that was given, whose combinations the runs are.
    requested: the hyper-parameters of each run. folder: of results.csv and results.json, None where there are no such
    files. options: of the command.
    """

    def __init__(
        self,
        params: Mapping[str, Sequence],
        requested: Sequence[Mapping[str, object]],
        folder: str | Path | None,
        options: Mapping[str, str] | None = None,
    ) -> None:
        self.params, self.options = dict(params), dict(options or {})
        self.folder = None if folder is None else Path(folder)
        self.requested = [dict(each) for each in requested]
        self.hyperparameters = self.requested  # as they are recorded, once they are resolved
        first, *others = self.requested
        self.varying = [name for name in first if any(other[name] != first[name] for other in others)]
        # of those that vary, the ones that were given; the recipe derives the others from them
        self.swept = [name for name in params or first if name in self.varying]
        self.monitor = first.get("monitor", "accuracy")
        self.rows_of: dict[int, list[dict]] = {}  # run: its rows, an epoch each
        self.finished: list[int] = []
        self.failures: dict[int, str] = {}  # run: why it failed
        self.is_tested = False  # whether the best network was scored on the test set

    @staticmethod
    def read(folder: str | Path) -> "Records | None":
        """The records that a command left in a folder, None without any; a single run counts as finished.

        Raises UserError if they can't be read.
        """
        found = read_json(Path(folder) / "results.json")
        if found is None:
            return None
        records = Records(found["params"], found["runs"], folder, found["options"])
        for row in found["rows"]:
            records.rows_of.setdefault(row["run"], []).append(row)
        records.finished, records.is_tested = found["finished"], found["tested"]
        records.failures = {int(run): reason for run, reason in found["failures"].items()}
        if records.count == 1 and records.rows:
            records.finished = [1]
        return records

    def set_rows(self, run: int, rows: Sequence[Mapping[str, float | None]]) -> None:
        """Set a run's rows: the figures in MEASURES of each epoch that has ended."""
        own = self.hyperparameters[run - 1]
        self.rows_of[run] = [{"run": run, "epoch": epoch, **row, **own} for epoch, row in enumerate(rows, start=1)]

    @property
    def csv_path(self) -> Path:
        """Of the table for people and spreadsheets."""
        return self.folder / "results.csv"

    @property
    def json_path(self) -> Path:
        """Of the same for programs."""
        return self.folder / "results.json"

    @property
    def count(self) -> int:
        """The number of runs."""
        return len(self.requested)

    @property
    def rows(self) -> list[dict]:
        """All rows, in the order of runs and epochs."""
        return [row for run in sorted(self.rows_of) for row in self.rows_of[run]]

    def label(self, run: int) -> dict:
        """The hyper-parameters that tell this run from the others."""
        return {name: self.requested[run - 1][name] for name in self.swept}

    def name(self, run: int) -> str:
        """The same as text: "lr=0.01, batch_size=100"."""
        return format_values(self.label(run))

    def derived(self, run: int) -> dict:
        """This run's values of what varies besides `swept`, such as what a recipe has for its network."""
        own = self.hyperparameters[run - 1]
        return {name: own[name] for name in self.varying if name not in self.swept}

    def common(self) -> dict:
        """The hyper-parameters that are the same in all runs, all but data set and network."""
        own = self.hyperparameters[0].items()
        return {name: value for name, value in own if name not in (*self.varying, "dataset", "arch")}

    def score(self, row: Mapping[str, float | None]) -> tuple[float, float]:
        """The score of an epoch's row, the higher the better."""
        return monitored_score(row, self.monitor)

    def best_of(self, run: int) -> dict:
        """The row of the run's best epoch, the earliest of equals."""
        return max(self.rows_of[run], key=self.score)

    def ranked(self) -> list[int]:
        """The finished runs, the best first; equals as they finished."""
        return sorted(self.finished, key=lambda run: self.score(self.best_of(run)), reverse=True)

    def best(self) -> dict | None:
        """The row of the best epoch of the best finished run; None without any."""
        return self.best_of(self.ranked()[0]) if self.finished else None

    def is_best(self, number: int) -> bool:
        """True if the run's best epoch is better than those of all runs that have finished."""
        best = self.best()
        return best is None or self.score(self.best_of(number)) > self.score(best)

    def spreads(self) -> list[Spread]:
        """Mean and deviation over the seeds, for each two or more finished runs that differ in nothing else."""
        groups: dict[str, list[dict]] = {}
        for run in sorted(self.finished):
            others = {name: value for name, value in self.label(run).items() if name != "seed"}
            groups.setdefault(json.dumps(others), []).append(self.best_of(run))
        found = []
        for others, rows in groups.items():
            values = [accuracy for row in rows if (accuracy := accuracy_of(row)) is not None]
            if len(values) > 1:
                found.append(Spread(json.loads(others), statistics.mean(values), statistics.stdev(values), len(values)))
        return found

    def to_csv(self) -> bytes:
        """results.csv: a line of names, then one for each epoch and each failure."""
        failures = [
            {"run": run, **self.hyperparameters[run - 1], "failure": reason} for run, reason in self.failures.items()
        ]
        text = io.StringIO()
        columns = ["run", "epoch", *MEASURES, *self.hyperparameters[0], "failure"]
        table = csv.DictWriter(text, columns, lineterminator="\n")
        table.writeheader()
        table.writerows(self.rows + failures)
        return text.getvalue().encode()

    def to_json(self) -> bytes:
        """results.json: all that is known of the runs."""
        return json_text(
            **RESULTS_FORMAT, options=self.options, params=self.params, tested=self.is_tested, finished=self.finished,
            failures=self.failures, runs=self.requested, rows=self.rows,
        ).encode()  # fmt: skip


# --- the files ---


def json_text(**content: object) -> str:
    """An object as JSON; of a list of objects or lists each has a line, so that a person can read it too."""

    def text(value: object) -> str:
        if isinstance(value, list) and value and isinstance(value[0], dict | list):
            return "[\n" + ",\n".join(f"  {json.dumps(item, default=str)}" for item in value) + "\n ]"
        return json.dumps(value, default=str)

    return "{\n" + ",\n".join(f' "{name}": {text(value)}' for name, value in content.items()) + "\n}\n"


def read_json(path: str | Path) -> dict | None:
    """The content of a results.json, None where there is no such file. Raises UserError if it is something else."""
    try:
        found = json.loads(Path(path).read_bytes())
        if {name: found[name] for name in RESULTS_FORMAT} != RESULTS_FORMAT:
            raise ValueError
        return {key: found[key] for key in CONTENT}
    except FileNotFoundError:
        return None
    except (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError):
        raise UserError(
            f"{path}: is no results file of this version; delete it, or give a --model in another folder"
        ) from None


def check_results(folder: Path) -> tuple[Path, Path]:
    """The paths of results.csv and results.json. Raises UserError if one can't be written, or is somebody else's."""
    table, records = (
        check_output(folder / name, "--model's results", (Path(name).suffix,))
        for name in ("results.csv", "results.json")
    )
    check_is_ours(table, b"run,epoch,", OTHER_FOLDER)
    read_json(records)
    return table, records


def owner_of(folder: Path, default: str) -> str:
    """The name of the model file that the records in a folder belong to, if it exists; else `default`."""
    try:
        found = read_json(folder / "results.json")
    except UserError:
        return default
    name = (found or {"options": {}})["options"].get("model", default)
    return name if (folder / name).exists() else default
