"""The figures of runs: rows per epoch, the ranking of epochs and runs, results.csv and results.json."""

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

TITLES = {  # column -> title on the terminal; columns are named train_ or val_ and a field of RunningScores or Scores
    "train_loss": "train loss",  # mean per image, nats
    "train_accuracy": "train acc",  # 0 to 1
    "val_loss": "val loss",  # mean per image, nats
    "val_accuracy": "val acc",  # 0 to 1
    "val_f1": "val f1",  # macro F1, 0 to 1; on the terminal only if it is monitored
}
MEASURES = (  # the columns of an epoch's figures
    *TITLES,
    "epoch_duration",  # seconds for training and validation, and for saving the epoch before
    "run_duration",  # seconds since the run began
)
RESULTS_FORMAT = {"format": "neural_lib results", "format_version": 2}
CONTENT = ("options", "params", "tested", "finished", "failures", "runs", "rows")  # the other keys of results.json


# --- one epoch ---


def epoch_figures(train: object, val: object | None) -> dict[str, float | None]:
    """The figures named in TITLES, from the scores of training and of validation (or None); unknown ones are None."""
    parts = {"train": train, "val": val}
    return {name: getattr(parts[part], field, None) for name in TITLES for part, field in [name.split("_", 1)]}


def monitored_score(measures: Mapping[str, float | None], monitor: str = "accuracy") -> tuple[float, float]:
    """The score of an epoch, the higher the better: (monitored measure, minus the loss), to be compared as a tuple.

    The loss decides between equal measures, which are frequent if there are few images. Losses count negatively.
    Without validation, training's accuracy and loss are used; without any accuracy, the loss; without a loss, -inf.
    """
    score = accuracy_of(measures) if measures["val_accuracy"] is None else measures[f"val_{monitor}"]
    loss = measures["train_loss" if measures["val_loss"] is None else "val_loss"]
    negative = -math.inf if loss is None else -loss
    return (negative if monitor == "loss" or score is None else score), negative


def accuracy_of(measures: Mapping[str, float | None]) -> float | None:
    """The validation accuracy or, without validation, the training accuracy; None if that is unknown too."""
    return measures["train_accuracy" if measures["val_accuracy"] is None else "val_accuracy"]


def figure_text(value: float | None) -> str:
    """A loss or an accuracy for a table: "0.1235"; "-" for None, "1.23e+05" for a diverging loss."""
    if value is None:
        return "-"
    return f"{value:.4f}" if value < 10_000 else f"{value:.2e}"


# --- all runs ---


class Spread(NamedTuple):
    """Mean and deviation of the best validation accuracies (0 to 1) of runs that differ only in their seed."""

    hyperparameters: dict  # the swept hyper-parameters without the seed
    mean: float
    deviation: float  # sample standard deviation
    count: int  # number of runs


class Records:
    """The runs of a command: their hyper-parameters and the figures of their epochs.

    Runs are numbered from 1. params: the given values of each hyper-parameter; the runs are their combinations.
    requested: the hyper-parameters of each run. folder: the folder of results.csv and results.json; None: no files.
    options: the command's options, by name.
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
        self.hyperparameters = self.requested  # of each run; replaced when values such as precision are resolved
        first, *others = self.requested
        self.varying = [name for name in first if any(other[name] != first[name] for other in others)]
        # The given hyper-parameters that vary; a recipe's variants can make others vary too.
        self.swept = [name for name in params or first if name in self.varying]
        self.monitor = first.get("monitor", "accuracy")
        self.rows_by_run: dict[int, list[dict]] = {}  # run -> a row for each epoch
        self.finished: list[int] = []  # runs, in the order in which they finished
        self.failures: dict[int, str] = {}  # run -> reason
        self.is_tested = False  # True once the best network was scored on the test set

    @staticmethod
    def read(folder: str | Path) -> "Records | None":
        """Read the results.json of a folder; None if it is missing. A single run counts as finished.

        Raises UserError if the file can't be read.
        """
        content = read_json(Path(folder) / "results.json")
        if content is None:
            return None
        records = Records(content["params"], content["runs"], folder, content["options"])
        for row in content["rows"]:
            records.rows_by_run.setdefault(row["run"], []).append(row)
        records.finished = [1] if records.count == 1 and content["rows"] else content["finished"]
        records.failures = {int(run): reason for run, reason in content["failures"].items()}
        return records

    def set_rows(self, run: int, rows: Sequence[Mapping[str, float | None]]) -> None:
        """Set a run's rows; rows: the figures named in MEASURES of each epoch that has ended.

        A row's "epoch" is its number; rows without one are counted from 1.
        """
        values = self.hyperparameters[run - 1]
        self.rows_by_run[run] = [
            {"run": run, "epoch": epoch, **row, **values} for epoch, row in enumerate(rows, start=1)
        ]

    @property
    def csv_path(self) -> Path:
        """Path of the table for people and spreadsheets."""
        return self.folder / "results.csv"

    @property
    def json_path(self) -> Path:
        """Path of the same figures for programs."""
        return self.folder / "results.json"

    @property
    def count(self) -> int:
        """The number of runs."""
        return len(self.requested)

    @property
    def rows(self) -> list[dict]:
        """All rows, in the order of runs and epochs."""
        return [row for run in sorted(self.rows_by_run) for row in self.rows_by_run[run]]

    def label(self, run: int) -> dict:
        """The swept hyper-parameters of a run, which distinguish it."""
        return {name: self.requested[run - 1][name] for name in self.swept}

    def name(self, run: int) -> str:
        """The label of a run as text: "lr=0.01, batch_size=100"."""
        return format_values(self.label(run))

    def derived(self, run: int) -> dict:
        """The other hyper-parameters of a run that vary, such as those in a recipe's variant for its network."""
        values = self.hyperparameters[run - 1]
        return {name: values[name] for name in self.varying if name not in self.swept}

    def common(self) -> dict:
        """The hyper-parameters that are the same in all runs, without data set and network."""
        hidden = (*self.varying, "dataset", "arch")
        return {name: value for name, value in self.hyperparameters[0].items() if name not in hidden}

    def score(self, row: Mapping[str, float | None]) -> tuple[float, float]:
        """The score of an epoch's row, the higher the better; see monitored_score."""
        return monitored_score(row, self.monitor)

    def best_of(self, run: int) -> dict:
        """The row of a run's best epoch; the earliest of equal ones."""
        return max(self.rows_by_run[run], key=self.score)

    def ranked(self) -> list[int]:
        """The finished runs, the best first; equal ones in the order in which they finished."""
        return sorted(self.finished, key=lambda run: self.score(self.best_of(run)), reverse=True)

    def best(self) -> dict | None:
        """The row of the best epoch of the best finished run; None if no run has finished."""
        return self.best_of(self.ranked()[0]) if self.finished else None

    def is_best(self, run: int) -> bool:
        """True if a run's best epoch is better than those of all finished runs."""
        best = self.best()
        return best is None or self.score(self.best_of(run)) > self.score(best)

    def spreads(self) -> list[Spread]:
        """Mean and deviation over the seeds, for each two or more finished runs that differ in nothing else."""
        groups: dict[str, list[float]] = {}
        for run in sorted(self.finished):
            if (accuracy := accuracy_of(self.best_of(run))) is not None:
                others = {name: value for name, value in self.label(run).items() if name != "seed"}
                groups.setdefault(json.dumps(others), []).append(accuracy)
        return [
            Spread(json.loads(others), statistics.mean(values), statistics.stdev(values), len(values))
            for others, values in groups.items()
            if len(values) > 1
        ]

    def to_csv(self) -> bytes:
        """The content of results.csv: a header, then a line for each epoch and each failure."""
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
        """The content of results.json."""
        return json_text(
            **RESULTS_FORMAT, options=self.options, params=self.params, tested=self.is_tested, finished=self.finished,
            failures=self.failures, runs=self.requested, rows=self.rows,
        ).encode()  # fmt: skip


# --- the files ---


def json_text(**content: object) -> str:
    """A JSON object with these keys; lists of objects or lists have one item in each line, for human readers."""

    def text(value: object) -> str:
        if isinstance(value, list) and value and isinstance(value[0], dict | list):
            return "[\n" + ",\n".join(f"  {json.dumps(item, default=str)}" for item in value) + "\n ]"
        return json.dumps(value, default=str)

    return "{\n" + ",\n".join(f' "{name}": {text(value)}' for name, value in content.items()) + "\n}\n"


def read_json(path: str | Path) -> dict | None:
    """The content of a results.json; None if there is no such file. Raises UserError if it is another kind of file."""
    try:
        content = json.loads(Path(path).read_bytes())
        if {name: content[name] for name in RESULTS_FORMAT} != RESULTS_FORMAT:
            raise ValueError
        return {key: content[key] for key in CONTENT}
    except FileNotFoundError:
        return None
    except (OSError, ValueError, LookupError, TypeError, RecursionError):
        raise UserError(
            f"{path}: is no results file of this version; delete it, or give a --model in another folder"
        ) from None


def check_results(folder: Path) -> tuple[Path, Path]:
    """The paths of results.csv and results.json. Raises UserError if they can't be written there."""
    table = check_output(folder / "results.csv", "--model's results", (".csv",))
    records = check_output(folder / "results.json", "--model's results", (".json",))
    check_is_ours(table, b"run,epoch,", "move it, or choose another folder")
    check_is_ours(records, RESULTS_FORMAT["format"].encode(), "move it, or choose another folder")
    return table, records


def kept_path(model: Path, epoch: int | str) -> Path:
    """The file beside a model in which --keep-every keeps the network of an epoch: model-epoch-10.pth."""
    return model.with_name(f"{model.stem}-epoch-{epoch}{model.suffix}")


def is_kept(path: Path, model: Path) -> bool:
    """True if `path` is a file in which --keep-every keeps a network beside that model."""
    epoch = path.stem.removeprefix(f"{model.stem}-epoch-")
    return epoch.isdecimal() and path == kept_path(model, epoch)


def owner_of(folder: Path, default: str) -> str:
    """The name of the model file that results.json in a folder belongs to; `default` if one of the two is missing."""
    try:
        content = read_json(folder / "results.json")
    except UserError:
        return default
    name = content["options"].get("model", default) if content else default
    return name if (folder / name).exists() else default
