"""TrainingState: how far one run has come, and all that it needs to resume bit for bit.

It holds no state of random generators: random numbers depend only on seed, epoch and step (config.derived_seed).
"""

import math
import time
from collections.abc import Callable, Mapping

import torch
from torch import nn, optim

from neural_lib.config import TrainConfig
from neural_lib.evaluation.scores import RunningScores, Scores
from neural_lib.records import epoch_figures, monitored_score
from neural_lib.system.errors import DivergedError


class TrainingState:
    """How far a run's training has come: the only place that knows it.

    epoch: the one under way, from first_epoch, which is 1, or 0 if the network begins from other weights and is
    validated before it is trained. step: batches of it that have been trained on. sums: their scores. rows: "epoch" and
    the figures of each epoch that has ended, by the names in records.MEASURES. best_epoch, best_weights: the epoch that
    validated best (records.monitored_score), the earliest of equals, None before one has ended; its weights on the CPU.
    """

    def __init__(
        self,
        config: TrainConfig,
        model: nn.Module,
        optimizer: optim.Optimizer,
        scheduler: optim.lr_scheduler.LRScheduler | None = None,
        now: Callable[[], float] = time.perf_counter,
        first_epoch: int = 1,
    ) -> None:
        self.config, self.model, self.optimizer, self.scheduler = config, model, optimizer, scheduler
        self.epoch, self.step, self.sums = first_epoch, 0, RunningScores()
        self.rows: list[dict[str, float]] = []
        self.best_epoch: int | None = None
        self.best_weights: dict[str, torch.Tensor] = {}
        self.now, self.start = now, now()

    @property
    def device(self) -> torch.device:
        """The device that holds the model."""
        return next(self.model.parameters()).device

    def seconds(self) -> float:
        """How long the run has taken, without the time between an interruption and resuming, in seconds."""
        return self.now() - self.start

    def end_epoch(self, val: Scores) -> bool:
        """Record the epoch that was trained and validated, and begin the next; True if it is the best so far.

        Raises DivergedError if the validation loss is no number: the last step can ruin the weights unseen.
        """
        if not math.isfinite(val.loss):
            raise DivergedError.of("validation", val.loss, self.epoch, self.config.lr)
        figures = epoch_figures(self.sums, val)  # waits for the device
        seconds, before = self.seconds(), self.rows[-1]["run_duration"] if self.rows else 0.0
        durations = {"epoch_duration": round(seconds - before, 3), "run_duration": round(seconds, 3)}
        row = {"epoch": self.epoch, **figures, **durations}
        monitor = self.config.monitor
        is_best = not self.rows or monitored_score(self.best_row, monitor) < monitored_score(row, monitor)
        self.rows.append(row)
        if is_best:
            self.best_weights = self.weights()
            self.best_epoch = self.epoch
        self.epoch, self.step, self.sums = self.epoch + 1, 0, RunningScores()
        return is_best

    def is_out_of_patience(self) -> bool:
        """True if config.patience epochs in a row were no better than the best."""
        return bool(self.rows) and 0 < self.config.patience <= self.rows[-1]["epoch"] - self.best_epoch

    @property
    def best_row(self) -> dict[str, float]:
        """The row of the best epoch."""
        return next(row for row in self.rows if row["epoch"] == self.best_epoch)

    def weights(self) -> dict[str, torch.Tensor]:
        """A copy of the model's weights on the CPU."""
        # contiguous: files don't keep the memory layout in which this machine computes
        weights = self.model.state_dict().items()
        return {name: value.detach().to("cpu", copy=True).contiguous() for name, value in weights}

    # --- saved and restored ---

    def state_dict(self) -> dict:
        """All of it, as tensors and plain types."""
        return {
            "epoch": self.epoch,
            "step": self.step,
            "sums": self.sums.state_dict(),
            "rows": self.rows,
            "best_epoch": self.best_epoch,
            "best_weights": self.best_weights,
            "seconds": self.seconds(),
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scheduler": self.scheduler.state_dict() if self.scheduler else None,
        }

    def load_state_dict(self, state: Mapping) -> None:
        """Restore a fresh run of the same configuration to the position at which state_dict was called."""
        self.model.load_state_dict(state["model"])
        if not self.scheduler:
            self.optimizer.load_state_dict(state["optimizer"])
        elif state["scheduler"]:  # else it was a run of 0 epochs, which had no schedule, and is prolonged now
            self.optimizer.load_state_dict(state["optimizer"])
            self.scheduler.load_state_dict(state["scheduler"])
        self.sums.load_state_dict(state["sums"])
        self.epoch, self.step, self.rows = state["epoch"], state["step"], list(state["rows"])
        self.best_epoch, self.best_weights = state["best_epoch"], state["best_weights"]
        self.start = self.now() - state["seconds"]
