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
from math import isfinite, nan
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from neural_lib.config import format_value, option_name
from neural_lib.records import MEASURES, Records, epoch_figures
from neural_lib.system.errors import UserError
from neural_lib.system.files import write_file

log = logging.getLogger(__name__)


class RunBuilder:
    """Makes the runs of a grid."""

    @staticmethod
    def get_runs(params: Mapping[str, Sequence]) -> list[tuple]:
        """A named tuple Run for each combination of values; those of the last name vary fastest.

        Raises UserError for a name without values or with the same value twice.
        """
        for name, values in params.items():
            if not values:
                raise UserError(f"{option_name(name)} needs at least one value")
            if twice := [value for index, value in enumerate(values) if value in values[:index]]:
                raise UserError(f"{option_name(name)} {format_value(twice[0])} is given twice; each run is made once")
        Run = namedtuple("Run", params)
        return [Run(*values) for values in product(*params.values())]


class RunManager(Records):
    """Records the runs of a grid while they are trained, in results.csv, results.json and TensorBoard's files.

    params: as RunBuilder takes them. folder: of the two files; without one none are written. hyperparameters: of each
    run, all that is recorded; the values in params where not given. `monitor` among them says what epochs and runs are
    compared by. options: of the command. board: a tensorboard.TensorBoard, or None. now: a clock, in seconds. write:
    how both files are written.

    Both files are written, each whole, when a run ends or fails, and after each epoch of a single run.
    """

    def __init__(
        self,
        params: Mapping[str, Sequence],
        folder: str | Path | None,
        hyperparameters: Sequence[Mapping[str, object]] | None = None,
        board: Any = None,
        now: Callable[[], float] = time.perf_counter,
        options: Mapping[str, str] | None = None,
        write: Callable[[Path, Callable[[], bytes]], object] = write_file,
    ) -> None:
        self.runs = RunBuilder.get_runs(params)
        super().__init__(params, hyperparameters or [run._asdict() for run in self.runs], folder, options)
        if self.folder:
            self.folder.mkdir(parents=True, exist_ok=True)
        if taken := {"run", "epoch", "failure", *MEASURES} & set(self.requested[0]):
            raise ValueError(f"a hyper-parameter can't have the name of a column: {', '.join(sorted(taken))}")
        self.board, self.now, self.write = board, now, write
        self.number = 0  # the run that was begun last, from 1

    def unfinished(self) -> list[int]:
        """The numbers of the runs that have not finished."""
        return [number for number in range(1, self.count + 1) if number not in self.finished]

    # --- called by train.py's loop ---

    def begin_run(
        self,
        number: int,
        network: Any = None,
        loader: Any = None,
        optimizer: Any = None,
        rows: Sequence[Mapping[str, float | None]] | None = None,
    ) -> None:
        """Begin run `number`, from 1, or resume it; records of an earlier attempt are dropped.

        rows: the figures of the epochs that have ended already, if it is resumed.
        """
        self.number, self.is_tested = number, False
        self.failures.pop(number, None)
        self.finished = [each for each in self.finished if each != number]  # it gets more epochs
        self.rows_by_run.pop(number, None)
        if rows:
            self.set_rows(number, rows)
        label = self.label(number) or self.runs[number - 1]._asdict()
        if self.count == 1:  # it may be prolonged, and its folder keeps its name
            label = {name: value for name, value in label.items() if name != "epochs"}
        ended = None if rows is None else self.rows_by_run[number][-1]["epoch"] if rows else 0
        self._to_board("begin_run", label, network, loader, optimizer, ended)
        self.run_start = self.now()

    def record_epoch(self, rows: Sequence[Mapping[str, float | None]], count: int, val: Any) -> None:
        """Record the epochs' figures after an epoch on `count` images; val: its validation's scores, or None."""
        self.set_rows(self.number, rows)
        epoch = self.rows_by_run[self.number][-1]["epoch"]
        is_best = self.best_of(self.number)["epoch"] == epoch
        self._to_board("end_epoch", epoch, count, rows[-1], val, is_best)
        if self.count == 1:
            self.save()

    def end_run(self) -> None:
        """Record that the run has finished."""
        self._to_board("end_run", self.best_of(self.number))
        self.finished.append(self.number)
        self.failures.pop(self.number, None)
        self.save()

    def fail_run(self, number: int, reason: str) -> None:
        """Record that a run has failed, perhaps before it was begun."""
        self._to_board("close")
        self.failures[number] = reason
        self.save()

    def save(self) -> bool:
        """Write results.csv and results.json. Raises OSError if that fails; False if `write` returned False."""
        if not self.folder:
            return True
        done = [self.write(self.csv_path, self.to_csv), self.write(self.json_path, self.to_json)]
        return False not in done

    def _to_board(self, method: str, *arguments: object) -> None:
        try:
            if self.board:
                getattr(self.board, method)(*arguments)
        except OSError as error:
            log.warning("--logdir: %s; this command goes on without TensorBoard's files", error)
            self.board = None

    # --- called by a loop of yours ---

    @contextmanager
    def run(self, run: tuple, network: Any = None, loader: Any = None, optimizer: Any = None) -> Iterator[None]:
        """begin_run and, unless the block raises, end_run."""
        self.begin_run(self.runs.index(run) + 1, network, loader, optimizer)
        try:
            yield
        except BaseException:
            self._to_board("close")
            raise
        self.end_run()

    @contextmanager
    def epoch(self) -> Iterator[None]:
        """A block for one epoch, which is recorded unless it raises; figures that are not finite become None."""
        self._losses, self._correct, self._val, start = [], [], None, self.now()
        yield
        train = SimpleNamespace(loss=_mean(self._losses), accuracy=_mean(self._correct))  # waits for the device
        end, count = self.now(), sum(count for _, count in self._correct)
        figures = epoch_figures(train, self._val)
        figures |= {"epoch_duration": round(end - start, 3), "run_duration": round(end - self.run_start, 3)}
        row = {name: value if value is not None and isfinite(value) else None for name, value in figures.items()}
        before = [{name: each[name] for name in MEASURES} for each in self.rows_by_run.get(self.number, [])]
        self.record_epoch([*before, row], count, self._val)

    def track_loss(self, loss: Any, count: int) -> None:
        """Add the mean loss () of a batch of `count` images: the epoch's loss is weighted by images, not by batches."""
        self._losses.append((loss.detach() * count, count))

    def track_num_correct(self, log_probs: Any, labels: Any) -> None:
        """Add a batch's predictions (N, classes), as log-probabilities or logits, and its true classes (N,)."""
        self._correct.append(((log_probs.argmax(dim=1) == labels).sum(), len(labels)))

    def track_validation(self, val: Any) -> None:
        """Set the Scores of the validation after this epoch; they decide which epoch and which run are best."""
        self._val = val


def _mean(sums: list[tuple[Any, int]]) -> float:
    # sums: pairs of a sum, which may be a tensor on a device, and its number of images
    count = sum(count for _, count in sums)
    return sum(float(each) for each, _ in sums) / count if count else nan
