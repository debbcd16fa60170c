"""What accompanies a training run: its progress on the terminal, and the best epoch's weights."""

import logging
import time
from collections.abc import Callable

from torch import Tensor, nn
from tqdm import tqdm

from neural_lib import tables
from neural_lib.config import TrainConfig
from neural_lib.evaluation import Evaluation
from neural_lib.metrics import RunningScores
from neural_lib.monitor import judged_by
from neural_lib.processes import Processes
from neural_lib.runs import RunManager
from neural_lib.training import Callback

log = logging.getLogger(__name__)


class Progress(Callback):
    """A bar over the images of an epoch, where stderr is a terminal, with the time left for the epoch and for the run.

    Used in a with block, so that an interrupted run leaves no half bar behind.
    """

    def __init__(self, epochs: int, train_size: int, quiet: bool = False) -> None:
        self.epochs, self.train_size = epochs, train_size
        self.disable = True if quiet else None  # None: tqdm's own look at whether stderr is a terminal
        self.bar = tqdm(disable=True)
        self.val_seconds = 0.0  # that the last validation took

    def __enter__(self) -> "Progress":
        return self

    def __exit__(self, *_) -> None:
        self.bar.close()

    def on_epoch_begin(self, epoch: int) -> None:
        self.epoch, self.first, self.last = epoch, None, time.perf_counter()
        self.bar = tqdm(
            desc=f"epoch {epoch}/{self.epochs}",
            total=self.train_size,
            unit=" img",
            unit_scale=True,
            leave=False,
            disable=self.disable,
            dynamic_ncols=True,
            bar_format="{desc} {percentage:3.0f}% |{bar}| {rate_fmt}{postfix}",
        )

    def on_batch_end(self, scores: RunningScores) -> None:
        self.last = time.perf_counter()
        if self.first is None:  # the first step waits for more than it computes, and a resumed epoch begins anywhere
            self.first = self.last, scores.count
        if self.bar.update(scores.count - self.bar.n):  # true a few times a second: only then are the sums read back
            left = self._time_left(scores.count)
            self.bar.set_postfix_str(f"{left}loss {scores.loss:.3f}, acc {scores.accuracy:.3f}", refresh=False)

    def _time_left(self, count: int) -> str:
        # after so many images of the epoch: "00:03 left, run 02:10, "
        start, before = self.first
        if count == before:
            return ""
        seconds = (self.last - start) / (count - before)  # an image
        epoch = seconds * (self.train_size - count)
        run = epoch + self.val_seconds + (self.epochs - self.epoch) * (seconds * self.train_size + self.val_seconds)
        return f"{tqdm.format_interval(epoch)} left, run {tqdm.format_interval(run)}, "

    def on_epoch_end(self, epoch: int, train: RunningScores, val: Evaluation) -> None:
        self.val_seconds = time.perf_counter() - self.last
        self.bar.close()


def runs_bar(runs: int, finished: int, quiet: bool = False) -> tqdm:
    """A bar over the runs of a grid, where stderr is a terminal and there are several."""
    return tqdm(
        desc="runs",
        total=runs,
        initial=finished,
        leave=False,
        disable=True if quiet or runs == 1 else None,
        dynamic_ncols=True,
        bar_format="{desc} {n}/{total} |{bar}| {elapsed}<{remaining}",
    )


class Recorder(Callback):
    """Tells a RunManager of each epoch."""

    def __init__(self, manager: RunManager) -> None:
        self.manager = manager

    def on_epoch_begin(self, epoch: int) -> None:
        self.manager.begin_epoch()

    def on_epoch_end(self, epoch: int, train: RunningScores, val: Evaluation) -> None:
        self.manager.scores = train  # the sums that training has made already
        self.manager.track_validation(val)
        self.manager.end_epoch()


class BestEpoch(Callback):
    """Keeps a copy of the weights of the best epoch, the earliest of equals; monitor.judged_by says what is.

    `on_improved(state_dict, metrics)` is called as soon as such an epoch ends, so that it can be saved while training
    goes on. NAMES: of the metrics.
    """

    NAMES = ("epoch", "train_loss", "train_accuracy", "val_loss", "val_accuracy", "val_f1")

    def __init__(
        self,
        model: nn.Module,
        monitor: str = "accuracy",
        on_improved: Callable[[dict[str, Tensor], dict[str, float]], None] | None = None,
    ) -> None:
        self.model, self.monitor, self.on_improved = model, monitor, on_improved
        self.epoch = 0  # from 1; 0 before the first epoch has ended
        self.metrics: dict[str, float] = {}
        self.state_dict: dict[str, Tensor] = {}

    def on_epoch_end(self, epoch: int, train: RunningScores, val: Evaluation) -> None:
        metrics = {
            "epoch": epoch,
            "train_loss": train.loss,
            "train_accuracy": train.accuracy,
            "val_loss": val.loss,
            "val_accuracy": val.accuracy,
            "val_f1": val.f1,
        }
        if self.epoch and judged_by(metrics, self.monitor) <= judged_by(self.metrics, self.monitor):
            return
        # contiguous: the file keeps values, not the memory layout that this machine computes in
        state_dict = {
            name: value.detach().to("cpu", copy=True).contiguous() for name, value in self.model.state_dict().items()
        }
        if self.on_improved:
            self.on_improved(state_dict, metrics)
        # last: an interruption before this line must not find an epoch that wasn't handed on
        self.take_over(state_dict, metrics)

    def take_over(self, state_dict: dict[str, Tensor], metrics: dict[str, float]) -> None:
        """What is the best epoch so far, with its weights."""
        self.epoch, self.metrics, self.state_dict = metrics["epoch"], metrics, state_dict


class EpochTable(Callback):
    """Logs a row after each epoch, and the heading before the first.

    manager, best: what knows the epoch's figures and whether it is the best so far; they must come before this one
    among the callbacks. is_saved: whether the best epoch is on the disk.
    """

    def __init__(
        self, config: TrainConfig, manager: RunManager, best: "BestEpoch", is_saved: Callable[[], bool] = lambda: True
    ) -> None:
        self.config, self.manager, self.best, self.is_saved = config, manager, best, is_saved
        self.has_heading = False

    def on_epoch_end(self, epoch: int, train: RunningScores, val: Evaluation) -> None:
        with_f1 = self.config.monitor == "f1"
        if not self.has_heading:
            log.info("%s", tables.epochs_heading(with_f1), extra={"bare": True})
            self.has_heading = True
        row = tables.epoch_row(epoch, self.config.epochs, self.manager.measures()[-1], with_f1)
        mark = "  *" if self.best.epoch == epoch and self.is_saved() else ""
        log.info("%s%s", row, mark, extra={"bare": True})


class AfterEpoch(Callback):
    """Calls a function after each epoch."""

    def __init__(self, function: Callable[[], None]) -> None:
        self.function = function

    def on_epoch_end(self, epoch: int, train: RunningScores, val: Evaluation) -> None:
        self.function()


class EndTogether(Callback):
    """Ends training in all processes after the epoch after which `ending` ends it in process 0.

    ending: nothing in the other processes; in process 0 it must come before this one among the callbacks.
    """

    def __init__(self, processes: Processes, ending: Callback | None = None) -> None:
        self.processes, self.ending = processes, ending or Callback()

    def on_epoch_end(self, epoch: int, train: RunningScores, val: Evaluation) -> None:
        self.stop = self.processes.of_first(self.ending.stop)


class EarlyStopping(Callback):
    """Ends training once `patience` epochs in a row were no better than the best one; with 0, never.

    best: what keeps the best epoch; it must come before this one among the callbacks. epochs: how many there would be.
    """

    def __init__(self, best: BestEpoch, patience: int, epochs: int) -> None:
        self.best, self.patience, self.epochs = best, patience, epochs

    def on_epoch_end(self, epoch: int, train: RunningScores, val: Evaluation) -> None:
        if self.patience and epoch - self.best.epoch >= self.patience and epoch < self.epochs:
            self.stop = True
            log.info("ending early, after %d of %d epochs: epoch %d was the best", epoch, self.epochs, self.best.epoch)
