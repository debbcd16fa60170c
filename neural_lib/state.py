"""The training state: how far a run has come, and all that it needs to go on from there bit for bit.

Nothing about random generators is in it: what is drawn follows from seed, epoch and step (config.derived_seed).
"""

import logging
import math
import textwrap
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor, nn, optim

from neural_lib import archive, checkpoint
from neural_lib.checkpoint import Checkpoint, versions
from neural_lib.config import TrainConfig, differences
from neural_lib.errors import DivergedError, UserError
from neural_lib.evaluation import Evaluation
from neural_lib.metrics import RunningScores
from neural_lib.monitor import judged_by
from neural_lib.results import MEASURES

log = logging.getLogger(__name__)

KIND = archive.Kind(
    format="neural_lib training state",
    version=2,  # 1 held the states of random generators
    read=(2,),
    noun="training state",
    option="--resume",
    otherwise="give the checkpoint.pth of a run",
    instead="delete it to begin anew",
)
ADAMS = {"step", "exp_avg", "exp_avg_sq"}
MOMENTS = {"adam": ADAMS, "adamw": ADAMS, "sgd": {"momentum_buffer"}}  # what an optimizer keeps of each parameter
BEST = ("epoch", "train_loss", "train_accuracy", "val_loss", "val_accuracy", "val_f1")  # what a checkpoint tells


class TrainingState:
    """How far a run's training has come: the only place that knows it.

    epoch: the one under way, from 1. step: batches of it that have been trained on. sums: their scores. rows: the
    figures of each epoch that has ended, by the names in results.MEASURES. best_epoch, best_weights: the earliest of
    the epochs that validated best, 0 before the first has ended; its weights on the CPU.
    """

    def __init__(
        self,
        config: TrainConfig,
        model: nn.Module,
        optimizer: optim.Optimizer,
        scheduler: optim.lr_scheduler.LRScheduler | None = None,
        data: str = "",
        now: Callable[[], float] = time.perf_counter,
    ) -> None:
        self.config, self.data = config, data  # the fingerprint of the images
        self.model, self.optimizer, self.scheduler = model, optimizer, scheduler
        self.epoch, self.step, self.sums = 1, 0, RunningScores()
        self.rows: list[dict[str, float]] = []
        self.best_epoch, self.best_weights = 0, {}
        self.now, self.start = now, now()

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        return next(self.model.parameters()).device

    def seconds(self) -> float:
        """How long the run has taken, without the time between an interruption and going on."""
        return self.now() - self.start

    def end_epoch(self, val: Evaluation) -> bool:
        """Record the epoch that was trained and validated, and begin the next; True if it is the best so far.

        Raises DivergedError where the validation loss is no number: the last step can ruin the weights unseen.
        """
        if not math.isfinite(val.loss):
            raise DivergedError.of("validation", val.loss, self.epoch, self.config.lr)
        train = {"train_loss": self.sums.loss, "train_accuracy": self.sums.accuracy}  # waits for the device
        seconds, before = self.seconds(), self.rows[-1]["run_duration"] if self.rows else 0.0
        durations = {"epoch_duration": round(seconds - before, 3), "run_duration": round(seconds, 3)}
        self.rows.append({**train, "val_loss": val.loss, "val_accuracy": val.accuracy, "val_f1": val.f1, **durations})
        is_best = not self.best_epoch or self._score(self.epoch) > self._score(self.best_epoch)
        if is_best:
            # contiguous: files keep values, not the memory layout that this machine computes in
            self.best_weights = {
                name: value.detach().to("cpu", copy=True).contiguous()
                for name, value in self.model.state_dict().items()
            }
            self.best_epoch = self.epoch
        self.epoch, self.step, self.sums = self.epoch + 1, 0, RunningScores()
        return is_best

    def _score(self, epoch: int) -> float:
        return judged_by(self.rows[epoch - 1], self.config.monitor)

    def lost_patience(self) -> bool:
        """True if so many epochs in a row as config.patience says were no better than the best."""
        return 0 < self.config.patience <= len(self.rows) - self.best_epoch

    def best_of(self, described: Checkpoint) -> Checkpoint:
        """The checkpoint `described` with the best epoch's weights and figures."""
        row = {"epoch": self.best_epoch, **self.rows[self.best_epoch - 1]}
        return replace(described, state_dict=self.best_weights, metrics={name: row[name] for name in BEST})

    # --- saved and restored ---

    def state_dict(self) -> dict:
        """All of it, as tensors and plain types."""
        return {
            "config": self.config.to_dict(),
            "data": self.data,
            "device": self.device.type,
            "versions": versions(),
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

    def to_bytes(self) -> bytearray:
        """The state as the bytes of a file."""
        return archive.to_bytes(self.state_dict(), KIND)

    def load_state_dict(self, state: dict) -> None:
        """Put a fresh run of the same configuration where state_dict was taken.

        Raises UserError, naming what doesn't fit, where the state isn't one of such a run.
        """
        if wrong := [name for name, fits in self._fits(state).items() if not fits]:
            raise UserError(f"--resume: the training state doesn't fit together ({', '.join(wrong)}); {KIND.instead}")
        try:
            self.model.load_state_dict(state["model"])
            self.optimizer.load_state_dict({**state["optimizer"], "state": self._own_moments(state["optimizer"])})
            if self.scheduler:
                self.scheduler.load_state_dict(state["scheduler"])
            self.sums.load_state_dict(state["sums"], self.device)
        except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError, RuntimeError) as error:
            why = textwrap.shorten(str(error), 200)
            raise UserError(f"--resume: the training state doesn't fit together ({why}); {KIND.instead}") from None
        self.epoch, self.step, self.rows = state["epoch"], state["step"], state["rows"]
        self.best_epoch, self.best_weights = state["best_epoch"], state["best_weights"]
        self.start = self.now() - state["seconds"]

    def _fits(self, state: dict) -> dict[str, bool]:
        # a checksum can't tell: whoever made it may have meant harm, and torch's optimizers take any shape on trust
        epoch, best_epoch, moments = state["epoch"], state["best_epoch"], state["optimizer"].get("state")
        fresh, names = self.optimizer.state_dict(), MOMENTS[self.config.optimizer]
        shapes = [parameter.shape for parameter in self._parameters()]
        model = self.model.state_dict()
        return {
            "model": _alike(state["model"], model),
            "optimizer": _alike(state["optimizer"].get("param_groups"), fresh["param_groups"])
            and isinstance(moments, dict)
            and all(
                index in range(len(shapes)) and isinstance(each, dict) and _are_moments(each, names, shapes[index])
                for index, each in moments.items()
            ),
            "scheduler": self._fits_scheduler(state["scheduler"]),
            "sums": set(state["sums"]) == set(self.sums.state_dict())
            and all(
                isinstance(each, int | float) or isinstance(each, Tensor) and not each.dim()
                for each in state["sums"].values()
            ),
            "rows": len(state["rows"]) == epoch - 1 and all(map(_is_row, state["rows"])),
            "epoch": 1 <= epoch <= self.config.epochs + 1,
            "best_epoch": 0 <= best_epoch < epoch and (best_epoch > 0) == (epoch > 1),
            "best_weights": _alike(state["best_weights"], model if best_epoch else {}),
        }

    def _fits_scheduler(self, state: dict | None) -> bool:
        fresh = self.scheduler.state_dict() if self.scheduler else None
        if fresh is None or not _alike(state, fresh):
            return state is fresh
        return state["total_steps"] == fresh["total_steps"] and 0 <= state["last_epoch"] <= fresh["total_steps"]

    def _parameters(self) -> list[Tensor]:
        # in the order in which the optimizer counts them
        return [parameter for group in self.optimizer.param_groups for parameter in group["params"]]

    def _own_moments(self, optimizer: dict) -> dict[int, dict[str, Tensor]]:
        # in memory laid out as each parameter's: a fused step goes by that, whatever strides a file may tell
        parameters = self._parameters()
        return {
            index: {
                name: value.clone() if name == "step" else torch.empty_like(parameters[index]).copy_(value)
                for name, value in moments.items()
            }
            for index, moments in optimizer["state"].items()
        }


def read(path: str | Path) -> dict:
    """The state_dict in a file. Raises UserError, naming the file, where it is something else or damaged."""
    content = archive.load(path, KIND)
    state = {name: content.get(name) for name in content.keys() | TYPES.keys()}
    if wrong := [name for name, fits in TYPES.items() if not fits(state[name])]:
        raise UserError(f"--resume {path}: something else than a state's own in {', '.join(wrong)}; {KIND.instead}")
    return state


def check_is_of(state: dict, path: Path, configs: Sequence[TrainConfig], data: str, device: str) -> int:
    """The number, from 1, of the run that a state is of; it may have had fewer epochs.

    Raises UserError, telling what differs, where it is of another run, other images or another kind of device.
    """
    runs = [config.to_dict() for config in configs]
    there = [{**state["config"], "epochs": run["epochs"]} for run in runs]
    same = [number for number, (old, run) in enumerate(zip(there, runs, strict=True), start=1) if old == run]
    if not same:
        changed = min((differences([old], [run]) for old, run in zip(there, runs, strict=True)), key=len)
        raise UserError(f"--resume: the training state is of another run: {'; '.join(changed)}; {KIND.instead}")
    same.sort(key=lambda number: runs[number - 1]["epochs"] != state["config"]["epochs"])  # else one that had fewer
    if state["data"] != data:
        old, new = (f"{each[:12]}..." for each in (state["data"], data))
        raise UserError(f"--resume {path}: is of other images (sha256 {old} there, {new} here); {KIND.instead}")
    if state["device"] != device:
        raise UserError(f"--resume {path}: --device {state['device']} there, {device} here; {KIND.instead}")
    return same[0]


def resume(
    outputs, configs: Sequence[TrainConfig], data: str, device: torch.device
) -> tuple[dict | None, Checkpoint | None]:
    """The state to go on from, as state_dict gives it, and the network of the best run that has finished.

    outputs: of train.py. Either may be None. Its manager learns which run the state is of, and what it knows of it.
    Raises UserError where they don't fit together.
    """
    command, manager, state, best = outputs.command, outputs.manager, None, None
    if command.resume_from:
        state = read(command.resume_from)
        manager.number = check_is_of(state, command.resume_from, configs, data, device.type)
        if manager.number in manager.finished:
            state = None
        else:
            manager.set_rows(state["rows"])
            outputs.state = (manager.number, state["epoch"], state["step"] + 1)
            if not manager.finished and _is_best_of(state, command.model):
                outputs.model = (manager.number, state["best_epoch"])
    if manager.finished:
        best = checkpoint.load(command.model)
        number = manager.adopt(best.config, best.metrics)
        outputs.model = (number, best.metrics["epoch"])
        log.info("%d of %d runs had finished", len(manager.finished), manager.count)
        if number == manager.number:  # saved, but not recorded any more
            state = None
    return state, best


def _is_best_of(state: dict, path: Path) -> bool:
    # whether the network in a model file is that of the best epoch of a state
    try:
        saved = checkpoint.load(path)
        row = {"epoch": state["best_epoch"], **state["rows"][state["best_epoch"] - 1]} if state["best_epoch"] else {}
    except (UserError, LookupError, TypeError):
        return False
    same = {**saved.config, "epochs": 0} == {**state["config"], "epochs": 0}
    return same and bool(row) and all(saved.metrics.get(name) == row.get(name) for name in BEST)


def _has_names(value: object) -> bool:
    return isinstance(value, dict) and all(isinstance(name, str) for name in value)


def _is_plain(value: object) -> bool:
    return _has_names(value) and all(isinstance(each, str | int | float) for each in value.values())


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


TYPES: dict[str, Callable[[object], bool]] = {
    **dict.fromkeys(("config", "versions"), _is_plain),
    **dict.fromkeys(("sums", "model", "optimizer", "best_weights"), _has_names),
    "scheduler": lambda value: isinstance(value, dict | None),
    **dict.fromkeys(("data", "device"), lambda value: isinstance(value, str)),
    **dict.fromkeys(("epoch", "step", "best_epoch"), _is_count),
    "rows": lambda value: isinstance(value, list),
    "seconds": lambda value: isinstance(value, float) and math.isfinite(value),
}


def _is_row(row: object) -> bool:
    return isinstance(row, dict) and set(row) == set(MEASURES) and all(isinstance(each, float) for each in row.values())


def _are_moments(each: dict, names: set[str], shape: torch.Size) -> bool:
    # of one parameter: as large as it is, or a count of steps
    return set(each) == names and all(
        isinstance(value, Tensor) and value.is_floating_point() and value.shape == (shape if name != "step" else ())
        for name, value in each.items()
    )


def _alike(there: object, here: object) -> bool:
    # the same structure, tensors of the same shape and type; numbers may differ
    if isinstance(here, Tensor):
        return isinstance(there, Tensor) and (there.shape, there.dtype) == (here.shape, here.dtype)
    if isinstance(here, dict):
        return (
            isinstance(there, dict)
            and there.keys() == here.keys()
            and all(_alike(there[key], here[key]) for key in here)
        )
    if isinstance(here, list | tuple):
        return isinstance(there, list | tuple) and len(there) == len(here) and all(map(_alike, there, here))
    if isinstance(here, int | float) and not isinstance(here, bool):
        return isinstance(there, int | float) and not isinstance(there, bool)
    return type(there) is type(here)
