"""RunBuilder and RunManager, after the structured experiment that this project comes from: a grid of runs.

params = {"lr": [0.01, 0.001], "batch_size": [100, 1000]}
manager = RunManager(params, "output")
for run in manager.runs:
    loader, network, optimizer = ...  # from run.lr and run.batch_size
    with manager.run(run, network, loader):
        for _ in range(3):
            with manager.epoch():
                for images, labels in loader:
                    ...  # learn them
                    manager.track_loss(loss, len(labels))
                    manager.track_num_correct(log_probs, labels)
"""

import json
import logging
import statistics
import time
from collections import namedtuple
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import product
from math import isfinite
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from neural_lib.board import Board
from neural_lib.config import flag_of, in_words, shown
from neural_lib.errors import UserError
from neural_lib.files import write_file
from neural_lib.monitor import accuracy_of, judged_by
from neural_lib.results import MEASURES, csv_text, json_text, read_json

if TYPE_CHECKING:
    from torch import Tensor, nn, optim

    from neural_lib.evaluation import Evaluation
    from neural_lib.metrics import RunningScores

log = logging.getLogger(__name__)


class RunBuilder:
    """From values to runs."""

    @staticmethod
    def get_runs(params: Mapping[str, Sequence]) -> list[tuple]:
        """A named tuple Run for each combination of values; those of the last name vary fastest.

        Raises UserError for a name without values or with the same value twice.
        """
        for name, values in params.items():
            if not values:
                raise UserError(f"{flag_of(name)} needs at least one value")
            if twice := [value for index, value in enumerate(values) if value in values[:index]]:
                raise UserError(f"{flag_of(name)} {shown(twice[0])} is given twice; each run is made once")
        Run = namedtuple("Run", params)
        return [Run(*values) for values in product(*params.values())]


class Spread(NamedTuple):
    """The validation accuracies of the best epochs of runs that differ in their seed alone."""

    hyperparameters: dict  # those that are swept besides
    mean: float
    deviation: float  # standard deviation of the sample
    count: int


class RunManager:
    """Goes through the runs of a grid and keeps their records: results.csv and results.json, and TensorBoard's.

    Runs are counted from 1. params: as RunBuilder takes them. folder: of the two files; without one none are written.
    hyperparameters: of each run, all that is recorded; without it the values in params. `monitor` among them says what
    epochs and runs are compared by. board: is told of each epoch besides. now: a clock, in seconds. options: of the
    command, to be recorded. write: how both files are written.

    Both files are written, each whole, when a run ends or fails, and after each epoch where there is one run alone.
    """

    def __init__(
        self,
        params: Mapping[str, Sequence],
        folder: str | Path | None,
        hyperparameters: Sequence[Mapping[str, object]] | None = None,
        board: Board | None = None,
        now: Callable[[], float] = time.perf_counter,
        options: Mapping[str, str] | None = None,
        write: Callable[[Path, Callable[[], bytes]], object] = write_file,
    ) -> None:
        self.params, self.runs = dict(params), RunBuilder.get_runs(params)
        self.folder, self.options = None if folder is None else Path(folder), dict(options or {})
        if self.folder:
            self.folder.mkdir(parents=True, exist_ok=True)
        self.requested = [dict(each) for each in hyperparameters or (run._asdict() for run in self.runs)]
        self.hyperparameters = self.requested  # as they are recorded, once they are resolved
        first, *others = self.requested
        if taken := {"run", "epoch", "failure", *MEASURES} & set(first):
            raise ValueError(f"a hyper-parameter can't have the name of a column: {', '.join(sorted(taken))}")
        self.differing = [name for name in first if any(other[name] != first[name] for other in others)]
        self.swept = [name for name in params or first if name in self.differing]  # the others follow from these
        self.monitor = first.get("monitor", "accuracy")
        self.rows_of: dict[int, list[dict]] = {}  # run: its rows, an epoch each
        self.finished: list[int] = []
        self.failures: dict[int, str] = {}  # why a run failed
        self.is_tested = False  # whether the best network was scored on the test set
        self.board, self.now, self.write = board or Board(), now, write
        self.number = 0  # of the run that is under way
        self.scores: RunningScores | None = None  # of the epoch that is under way, in a loop of one's own
        self.val: Evaluation | None = None

    @property
    def csv_path(self) -> Path:
        """Of the table for people and spreadsheets."""
        return self.folder / "results.csv"

    @property
    def json_path(self) -> Path:
        """Of the records that a command goes on from."""
        return self.folder / "results.json"

    @property
    def count(self) -> int:
        """The number of runs in the grid."""
        return len(self.runs)

    @property
    def rows(self) -> list[dict]:
        """All rows, in the order of runs and epochs."""
        return [row for run in sorted(self.rows_of) for row in self.rows_of[run]]

    def resolve(self, hyperparameters: Sequence[Mapping[str, object]]) -> None:
        """Say what the hyper-parameters came to, such as a precision that was left to the machine to choose.

        Another data set than was requested makes another grid; nothing else does. Raises UserError where runs that have
        finished were trained with something else.
        """
        self.hyperparameters = [dict(each) for each in hyperparameters]
        for run in self.finished:
            recorded, now = self.rows_of[run][0], self.hyperparameters[run - 1]
            if other := {name: value for name, value in now.items() if recorded[name] != value and name != "epochs"}:
                before = {name: recorded[name] for name in other}
                raise UserError(
                    f"--resume: run {run} was trained with {in_words(before)}, and here it would be {in_words(other)}; "
                    "go on where it began, or start anew in another folder"
                )
        for requested, now in zip(self.requested, self.hyperparameters, strict=True):
            if "dataset" in now:
                requested["dataset"] = now["dataset"]

    # --- what tells the runs apart ---

    def number_of(self, run: tuple) -> int:
        """The run's place among all, from 1."""
        return self.runs.index(run) + 1

    def label(self, run: int) -> dict:
        """What tells this run from the others."""
        return {name: self.requested[run - 1][name] for name in self.swept}

    def name(self, run: int) -> str:
        """The same in words: "lr=0.01, batch_size=100"."""
        return in_words(self.label(run))

    def derived(self, run: int) -> dict:
        """What differs between the runs besides, because it follows from that: a recipe's values for the network."""
        own = self.hyperparameters[run - 1]
        return {name: own[name] for name in self.differing if name not in self.swept}

    def common(self) -> dict:
        """The hyper-parameters that are the same in all runs, all but data set and network."""
        own = self.hyperparameters[0].items()
        return {name: value for name, value in own if name not in (*self.differing, "dataset", "arch")}

    # --- which runs are good ---

    def unfinished(self) -> list[tuple]:
        """The runs that have not ended well yet, in their order."""
        return [run for number, run in enumerate(self.runs, start=1) if number not in self.finished]

    def score(self, row: Mapping[str, float | None]) -> float:
        """What epochs are compared by, the higher the better."""
        return judged_by(row, self.monitor)

    def best_of(self, run: int) -> dict:
        """The row of the run's best epoch, the earliest of equals."""
        return max(self.rows_of[run], key=self.score)

    def ranked(self) -> list[int]:
        """The finished runs, the best first; equals as they finished."""
        return sorted(self.finished, key=lambda run: -self.score(self.best_of(run)))

    def best(self) -> dict | None:
        """The row of the best epoch of the best finished run; None without any."""
        return self.best_of(self.ranked()[0]) if self.finished else None

    def is_best(self, number: int) -> bool:
        """Whether the run's best epoch is better than those of all runs that have finished."""
        best = self.best()
        return best is None or self.score(self.best_of(number)) > self.score(best)

    def scale(self) -> tuple[str, dict[int, float]]:
        """What to colour many finished runs by: the swept number that has the most values, and its value in each run.

        The seed only where no other number varies: runs of different seeds are meant to look alike. Where no number
        varies at all, the best validation accuracy.
        """
        by_name = {name: {run: self.label(run)[name] for run in range(1, self.count + 1)} for name in self.swept}
        numbers = {
            name: values
            for name, values in by_name.items()
            if all(isinstance(value, int | float) and not isinstance(value, bool) for value in values.values())
        }
        accuracies = {run: accuracy_of(self.best_of(run)) for run in self.finished}
        by_accuracy = "best validation accuracy", {run: value or 0.0 for run, value in accuracies.items()}
        return max(
            numbers.items(), key=lambda item: (item[0] != "seed", len(set(item[1].values()))), default=by_accuracy
        )

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

    def adopt(self, config: Mapping[str, object], metrics: Mapping[str, float]) -> int:
        """Check that a saved network is the best of the runs that have finished, and return its run's number.

        config, metrics: what its checkpoint says. A run that was interrupted between the saving of its network and its
        last record has finished too, and is recorded so. Raises UserError where the network is none of the runs'.
        """
        figures = ("epoch", "val_accuracy", "val_loss")
        same = [
            row
            for row in self.rows
            if all(row.get(name) == value for name, value in config.items() if name != "epochs")
            and all(row[name] == metrics.get(name) for name in figures)
        ]
        if not same:
            raise UserError(
                f"--resume: --model is not the network of a run in {self.json_path}; "
                "give the one that it was, or delete that file to start anew"
            )
        same.sort(key=lambda row: row.get("epochs") != config.get("epochs"))  # else of a run that had fewer or more
        number = same[0]["run"]
        if number not in self.finished and self.is_best(number):
            self.finished.append(number)
        if self.best()["run"] != number:
            raise UserError(
                f"--resume: --model is the network of run {number}, and of those in {self.json_path} "
                f"run {self.best()['run']} is best; give that one, or delete that file to start anew"
            )
        return number

    # --- what happens, in train.py's loop ---

    def begin_run(
        self,
        run: tuple,
        network: "nn.Module | None" = None,
        loader: object = None,
        optimizer: "optim.Optimizer | None" = None,
        rows: Sequence[Mapping[str, float | None]] = (),
    ) -> None:
        """A run begins, or goes on; what else an earlier attempt at it left in the records is dropped.

        rows: the figures of the epochs that have ended already.
        """
        self.number, self.is_tested = self.number_of(run), False
        self.failures.pop(self.number, None)
        self.finished = [each for each in self.finished if each != self.number]  # which gets more epochs
        self.set_rows(rows)
        label, own = self.label(self.number) or run._asdict(), self.hyperparameters[self.number - 1]
        self._tell_board("begin_run", label, own, network, loader, optimizer, len(rows))
        self.run_start = self.epoch_start = self.now()

    def set_rows(self, rows: Sequence[Mapping[str, float | None]]) -> None:
        """Let these be the figures of the epochs that have ended in the run that is under way."""
        self.rows_of.pop(self.number, None)
        if rows:
            own = self.hyperparameters[self.number - 1]
            self.rows_of[self.number] = [
                {"run": self.number, "epoch": epoch, **row, **own} for epoch, row in enumerate(rows, start=1)
            ]

    def record_epoch(self, rows: Sequence[Mapping[str, float | None]], count: int, val: "Evaluation | None") -> None:
        """Record the epochs' figures after an epoch on `count` images, the last one's for TensorBoard too."""
        self.set_rows(rows)
        is_best = self.best_of(self.number)["epoch"] == len(rows)
        self._tell_board("end_epoch", len(rows), count, rows[-1], val, is_best)
        if self.count == 1:
            self.save()

    def end_run(self) -> None:
        """The run has ended well."""
        self._tell_board("end_run", self.best_of(self.number))
        self.finished.append(self.number)
        self.failures.pop(self.number, None)
        self.save()

    def fail_run(self, run: tuple, reason: str) -> None:
        """The run has failed, perhaps before it began: this is recorded, and others may follow."""
        self.board.close()
        self.failures[self.number_of(run)] = reason
        self.save()

    def _tell_board(self, method: str, *arguments: object) -> None:
        try:
            getattr(self.board, method)(*arguments)
        except OSError as error:
            log.warning("--logdir: %s; this command goes on without TensorBoard's records", error)
            self.board = Board()

    # --- what happens, in a loop of one's own ---

    @contextmanager
    def run(self, run: tuple, *watched: object) -> Iterator[None]:
        """begin_run and, unless the block raises, end_run. watched: network, loader, optimizer, for TensorBoard."""
        self.begin_run(run, *watched)
        try:
            yield
        except BaseException:
            self.board.close()
            raise
        self.end_run()

    @contextmanager
    def epoch(self) -> Iterator[None]:
        """An epoch, whose figures are recorded unless the block raises; what is no finite number is nothing there."""
        from neural_lib.metrics import RunningScores

        self.scores, self.val, self.epoch_start = RunningScores(), None, self.now()
        yield
        figures = {"train_loss": self.scores.loss, "train_accuracy": self.scores.accuracy}  # waits for the device
        end = self.now()
        figures |= {f"val_{name}": getattr(self.val, name, None) for name in ("loss", "accuracy", "f1")}
        figures |= {"epoch_duration": round(end - self.epoch_start, 3), "run_duration": round(end - self.run_start, 3)}
        row = {name: value if value is not None and isfinite(value) else None for name, value in figures.items()}
        known = [{name: each[name] for name in MEASURES} for each in self.rows_of.get(self.number, [])]
        self.record_epoch([*known, row], self.scores.count, self.val)

    def track_loss(self, loss: "Tensor", count: int) -> None:
        """The mean loss of a batch of `count` images: the epoch's loss is weighted by images, not by batches."""
        self.scores.add_loss(loss, count)

    def track_num_correct(self, log_probs: "Tensor", labels: "Tensor") -> None:
        """A batch's predictions (N, classes), as log-probabilities or logits, and its true classes (N,)."""
        self.scores.add_correct(log_probs, labels)

    def track_validation(self, val: "Evaluation") -> None:
        """What validation gave after this epoch, where there is one; it decides which epoch and which run are best."""
        self.val = val

    # --- the files ---

    def save(self) -> bool:
        """Write results.csv and results.json. Raises OSError where that fails, or returns False where `write` does."""
        if not self.folder:
            return True
        done = [self.write(self.csv_path, self._csv), self.write(self.json_path, self._json)]
        return False not in done

    def _csv(self) -> bytes:
        failures = [
            {"run": run, **self.hyperparameters[run - 1], "failure": reason} for run, reason in self.failures.items()
        ]
        columns = ["run", "epoch", *MEASURES, *self.hyperparameters[0], "failure"]
        return csv_text(columns, self.rows + failures).encode()

    def _json(self) -> bytes:
        return json_text(
            options=self.options, params=self.params, tested=self.is_tested, finished=self.finished,
            failures=self.failures, runs=self.requested, rows=self.rows,
        ).encode()  # fmt: skip

    def take_over(self, found: Mapping) -> None:
        """Go on from what read_json found of these very runs."""
        self.finished, self.is_tested = found["finished"], found["tested"]
        for row in found["rows"]:
            self.rows_of.setdefault(row["run"], []).append(row)
        self.failures = {int(run): reason for run, reason in found["failures"].items()}


def read_results(folder: str | Path) -> RunManager | None:
    """The records that a command left in a folder, for looking at; None where there are none.

    A run alone counts as finished, however it ended. Raises UserError where they can't be read.
    """
    found = read_json(Path(folder) / "results.json")
    if found is None or found["params"] is None:
        return None
    manager = RunManager(found["params"], folder, found["runs"])
    manager.take_over(found)
    if manager.count == 1 and manager.rows:
        manager.finished = [1]
    return manager
