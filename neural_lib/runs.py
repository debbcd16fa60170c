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

import logging
import time
from collections import namedtuple
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import product
from math import isfinite
from pathlib import Path
from typing import TYPE_CHECKING

from neural_lib.board import Board
from neural_lib.config import flag_of, shown
from neural_lib.errors import UserError
from neural_lib.records import MEASURES, Records

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


class RunManager:
    """Goes through the runs of a grid, epoch by epoch, and keeps their records: results.csv, results.json, the board.

    params: as RunBuilder takes them. folder: where the records go. hyperparameters: of each run, all that is recorded;
    without it the values in params. board: what is told of each epoch besides. now: a clock, in seconds.
    """

    def __init__(
        self,
        params: Mapping[str, Sequence],
        folder: str | Path,
        hyperparameters: Sequence[Mapping[str, object]] | None = None,
        board: Board | None = None,
        now: Callable[[], float] = time.perf_counter,
    ) -> None:
        self.runs = RunBuilder.get_runs(params)
        Path(folder).mkdir(parents=True, exist_ok=True)
        self.records = Records(folder, hyperparameters or [run._asdict() for run in self.runs], names=params)
        self.board, self.now = board or Board(), now
        self.number = 0  # of the run that is under way, from 1
        self.epoch_count = 0
        self.scores: RunningScores | None = None  # of the epoch that is under way
        self.val: Evaluation | None = None

    def number_of(self, run: tuple) -> int:
        """The run's place among all, from 1."""
        return self.runs.index(run) + 1

    def take_over(self, config: Mapping[str, object], metrics: Mapping[str, float]) -> int:
        """Check that a saved network is the best of the runs that have finished, and return its run's number.

        config, metrics: what its checkpoint says. A run that was interrupted between the saving of its network and its
        last record has finished too, and is recorded so. Raises UserError where the network is none of the runs'.
        """
        rows = [row for row in self.records.rows if all(row.get(name) == value for name, value in config.items())]
        same = [
            row for row in rows if all(row[name] == metrics.get(name) for name in ("epoch", "val_accuracy", "val_loss"))
        ]
        if not same:
            raise UserError(
                f"--resume: --model is not the network of a run in {self.records.json_path}; "
                "give the one that it was, or delete that file to start anew"
            )
        number = same[0]["run"]
        if number not in self.records.finished and self.is_best(number):
            self.records.finish(number)
        if self.records.best()["run"] != number:
            raise UserError(
                f"--resume: --model is the network of run {number}, and of those in {self.records.json_path} "
                f"run {self.records.best()['run']} is best; give that one, or delete that file to start anew"
            )
        return number

    def is_best(self, number: int) -> bool:
        """Whether the run's best epoch is better than those of all runs that have finished."""
        best = self.records.best()
        return best is None or self.records.judged(self.records.best_of(number)) > self.records.judged(best)

    def unfinished(self) -> list[tuple]:
        """The runs that have not ended well yet, in their order."""
        return [run for number, run in enumerate(self.runs, start=1) if number not in self.records.finished]

    def begin_run(
        self,
        run: tuple,
        network: "nn.Module | None" = None,
        loader: object = None,
        optimizer: "optim.Optimizer | None" = None,
        done: Sequence[Mapping[str, float | None]] = (),
        seconds: float = 0.0,
    ) -> None:
        """A run begins, or goes on; what else an earlier attempt at it left in the records is dropped.

        done: the measures of the epochs that are behind it. seconds: how long it had taken when it was interrupted.
        """
        self.number, self.epoch_count = self.number_of(run), len(done)
        self.records.discard(self.number, keep=done)
        label = self.records.label(self.number) or run._asdict()
        hyperparameters = self.records.hyperparameters[self.number - 1]
        self._tell_board("begin_run", label, hyperparameters, network, loader, optimizer, len(done))
        self.run_start, self.resumed_epoch_start = self.now() - seconds, None
        if seconds:  # the first epoch to come had begun when the last one ended
            self.resumed_epoch_start = self.run_start + (done[-1]["run_duration"] if done else 0.0)

    def measures(self) -> list[dict]:
        """Of the epochs of the run that is under way, as begin_run takes them."""
        return [{name: row[name] for name in MEASURES} for row in self.records.rows_of.get(self.number, [])]

    def seconds(self) -> float:
        """Since the run that is under way began, its interruptions left out."""
        return self.now() - self.run_start

    def end_run(self, on_best: Callable[[], None] | None = None) -> None:
        """The run has ended well. on_best: called if it is the best so far, before the records say that it has ended.

        In this order, because whatever fails or is interrupted then leaves a run that is simply not finished yet.
        """
        self._tell_board("end_run", self.records.best_of(self.number))
        if on_best and self.is_best(self.number):
            on_best()
        self.records.finish(self.number)

    def fail_run(self, run: tuple, reason: str) -> None:
        """The run has failed, perhaps before it began: this is recorded, and others may follow."""
        self.board.close()
        self.records.fail(self.number_of(run), reason)

    def begin_epoch(self) -> None:
        """An epoch begins, counted from 1 in each run."""
        from neural_lib.metrics import RunningScores

        self.epoch_count += 1
        self.scores, self.val = RunningScores(), None
        begun = self.resumed_epoch_start  # before an interruption
        self.epoch_start, self.resumed_epoch_start = self.now() if begun is None else begun, None

    def track_loss(self, loss: "Tensor", count: int) -> None:
        """The mean loss of a batch of `count` images: the epoch's loss is weighted by images, not by batches."""
        self.scores.add_loss(loss, count)

    def track_num_correct(self, log_probs: "Tensor", labels: "Tensor") -> None:
        """A batch's predictions (N, classes), as log-probabilities or logits, and its true classes (N,)."""
        self.scores.add_correct(log_probs, labels)

    def track_validation(self, val: "Evaluation") -> None:
        """What validation gave after this epoch, where there is one; it decides which epoch and which run are best."""
        self.val = val

    def end_epoch(self) -> None:
        """The epoch has ended: its row goes into the records; what is no finite number is nothing there."""
        train = {"train_loss": self.scores.loss, "train_accuracy": self.scores.accuracy}  # waits for the device
        end = self.now()
        measures = {
            **train,
            "val_loss": self.val.loss if self.val else None,
            "val_accuracy": self.val.accuracy if self.val else None,
            "val_f1": self.val.f1 if self.val else None,
            "epoch_duration": round(end - self.epoch_start, 3),
            "run_duration": round(end - self.run_start, 3),
        }
        measures = {name: value if value is not None and isfinite(value) else None for name, value in measures.items()}
        self.records.add(self.number, self.epoch_count, measures)
        is_best = self.records.best_of(self.number)["epoch"] == self.epoch_count
        self._tell_board("end_epoch", self.epoch_count, self.scores.count, measures, self.val, is_best)

    def _tell_board(self, method: str, *arguments: object) -> None:
        try:
            getattr(self.board, method)(*arguments)
        except OSError as error:
            log.warning("--logdir: %s; this command goes on without TensorBoard's records", error)
            self.board = Board()

    def save(self) -> None:
        """Write both files; end_epoch, end_run and fail_run do so by themselves."""
        self.records.write()

    @contextmanager
    def run(self, run: tuple, *watched: object, on_best: Callable[[], None] | None = None, **resumed) -> Iterator[None]:
        """begin_run and, unless the block raises, end_run. resumed: begin_run's `done` and `seconds`."""
        self.begin_run(run, *watched, **resumed)
        try:
            yield
        except BaseException:
            self.board.close()
            raise
        self.end_run(on_best)

    @contextmanager
    def epoch(self) -> Iterator[None]:
        """begin_epoch and, unless the block raises, end_epoch."""
        self.begin_epoch()
        yield
        self.end_epoch()
