"""The training state, checkpoint.pth: how far a run has come, and all that it needs to go on from there bit for bit.

It holds no state of random generators: random numbers depend only on seed, epoch and step (config.derived_seed).
"""

import contextlib
import errno
import logging
import math
import re
import textwrap
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor, nn, optim

from neural_lib import checkpoint
from neural_lib.checkpoint import Checkpoint, FileFormat, archive_bytes, load_archive, versions
from neural_lib.config import TrainConfig, differences
from neural_lib.evaluation.scores import RunningScores, Scores
from neural_lib.records import MEASURES, TITLES, epoch_figures, monitored_score
from neural_lib.system.distributed import broadcast, is_main
from neural_lib.system.errors import DivergedError, UserError
from neural_lib.system.files import Writer
from neural_lib.training.command import Command
from neural_lib.training.runs import RunManager

log = logging.getLogger(__name__)

STATE_FORMAT = FileFormat(
    name="neural_lib training state",
    version=3,  # 1 held the states of random generators, 2 the sums as tensors
    readable=(3,),
    noun="training state",
    option="--resume",
    if_missing="give the checkpoint.pth of a run",
    if_damaged="delete it to begin anew",
)
TYPES = {
    **dict.fromkeys(("config", "versions", "sums", "best_weights", "model", "optimizer"), dict),
    **dict.fromkeys(("epoch", "step", "best_epoch"), int),
    **{"data": str, "device": str, "rows": list, "seconds": float},
}
ADAMS = ("step", "exp_avg", "exp_avg_sq")
SGDS = ("momentum_buffer",)
MOMENTS = {  # what an optimizer keeps of each parameter: of the weights of convolutions, of all others
    "adam": (ADAMS, ADAMS), "adamw": (ADAMS, ADAMS), "muon": (SGDS, ADAMS), "sgd": (SGDS, SGDS),
}  # fmt: skip


class TrainingState:
    """How far a run's training has come: the only place that knows it.

    epoch: the one under way, from 1. step: batches of it that have been trained on. sums: their scores. rows: the
    figures of each epoch that has ended, by the names in records.MEASURES. best_epoch, best_weights: the epoch that
    validated best (records.monitored_score), the earliest of equals, 0 before one has ended; its weights on the CPU.
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

    def end_epoch(self, val: Scores) -> bool:
        """Record the epoch that was trained and validated, and begin the next; True if it is the best so far.

        Raises DivergedError if the validation loss is no number: the last step can ruin the weights unseen.
        """
        if not math.isfinite(val.loss):
            raise DivergedError.of("validation", val.loss, self.epoch, self.config.lr)
        figures = epoch_figures(self.sums, val)  # waits for the device
        seconds, before = self.seconds(), self.rows[-1]["run_duration"] if self.rows else 0.0
        durations = {"epoch_duration": round(seconds - before, 3), "run_duration": round(seconds, 3)}
        self.rows.append({**figures, **durations})
        score = [monitored_score(row, self.config.monitor) for row in self.rows]
        is_best = not self.best_epoch or score[self.epoch - 1] > score[self.best_epoch - 1]
        if is_best:
            # contiguous: files keep values, not the memory layout that this machine computes in
            self.best_weights = {
                name: value.detach().to("cpu", copy=True).contiguous()
                for name, value in self.model.state_dict().items()
            }
            self.best_epoch = self.epoch
        self.epoch, self.step, self.sums = self.epoch + 1, 0, RunningScores()
        return is_best

    def is_out_of_patience(self) -> bool:
        """True if config.patience epochs in a row were no better than the best."""
        return 0 < self.config.patience <= len(self.rows) - self.best_epoch

    def best_of(self, described: Checkpoint) -> Checkpoint:
        """The checkpoint `described` with the best epoch's weights and figures."""
        return replace(described, state_dict=self.best_weights, metrics=best_metrics(self.best_epoch, self.rows))

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
        return archive_bytes(self.state_dict(), STATE_FORMAT)

    def load_state_dict(self, state: dict) -> None:
        """Put a fresh run of the same configuration where state_dict was taken.

        Raises UserError, naming what doesn't fit, where the state isn't one of such a run.
        """
        parameters = [parameter for group in self.optimizer.param_groups for parameter in group["params"]]
        try:
            if wrong := self._misfits(state, parameters):
                raise ValueError(", ".join(wrong))
            self.model.load_state_dict(state["model"])
            # moments with the memory layout of their parameter, which a fused step assumes, whatever strides a file has
            moments = {
                index: {
                    name: value.clone() if name == "step" else torch.empty_like(parameters[index]).copy_(value)
                    for name, value in each.items()
                }
                for index, each in state["optimizer"]["state"].items()
            }
            self.optimizer.load_state_dict({**state["optimizer"], "state": moments})
            if self.scheduler:
                self.scheduler.load_state_dict(state["scheduler"])
        except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError, RuntimeError) as error:
            why = textwrap.shorten(str(error), 200)
            hint = STATE_FORMAT.if_damaged
            raise UserError(f"--resume: the training state doesn't fit together ({why}); {hint}") from None
        self.sums.load_state_dict(state["sums"])
        self.epoch, self.step, self.rows = state["epoch"], state["step"], state["rows"]
        self.best_epoch, self.best_weights = state["best_epoch"], state["best_weights"]
        self.start = self.now() - state["seconds"]

    def _misfits(self, state: dict, parameters: list[Tensor]) -> list[str]:
        # the parts that don't fit this run. A checksum doesn't protect against a crafted file, and torch's optimizers
        # don't check shapes
        fresh, epoch, best_epoch = self.state_dict(), state["epoch"], state["best_epoch"]
        if not 1 <= epoch <= self.config.epochs + 1:
            return ["epoch"]
        of_convolutions, of_others = MOMENTS[self.config.optimizer]
        moments = {}
        for index in state["optimizer"]["state"]:
            names = of_convolutions if parameters[index].dim() == 4 else of_others
            moments[index] = {name: torch.tensor(0.0) if name == "step" else parameters[index] for name in names}
        fresh["optimizer"] = {**fresh["optimizer"], "state": moments}
        fresh["rows"] = [dict.fromkeys(MEASURES, 0.0)] * (epoch - 1)
        fresh["best_weights"] = fresh["model"] if best_epoch else {}
        wrong = [name for name in fresh if name != "versions" and not _is_alike(state.get(name), fresh[name])]
        if state["step"] < 0:
            wrong.append("step")
        if not math.isfinite(state["seconds"]):
            wrong.append("seconds")
        if not 0 <= best_epoch < epoch or (best_epoch > 0) != (epoch > 1):
            wrong.append("best_epoch")
        if self.scheduler and not wrong:
            total = fresh["scheduler"]["total_steps"]
            if state["scheduler"]["total_steps"] != total or not 0 <= state["scheduler"]["last_epoch"] <= total:
                wrong.append("scheduler")
        return wrong


def best_metrics(best_epoch: int, rows: list[dict[str, float]]) -> dict[str, float]:
    """The figures of the best epoch as a checkpoint has them: its number and what records.TITLES names."""
    return {"epoch": best_epoch, **{name: rows[best_epoch - 1][name] for name in TITLES}}


def read_state(path: str | Path) -> dict:
    """The state_dict in a file. Raises UserError, naming the file, if it is something else or damaged."""
    state = load_archive(path, STATE_FORMAT)
    values = {name: state.get(name) for name in TYPES}
    wrong = [name for name, value in values.items() if not isinstance(value, TYPES[name]) or isinstance(value, bool)]
    if not wrong and not all(isinstance(name, str) for name in state["config"]):
        wrong = ["config"]
    if not wrong and not all(_is_alike(row, dict.fromkeys(MEASURES, 0.0)) for row in state["rows"]):
        wrong = ["rows"]
    if wrong:
        hint = STATE_FORMAT.if_damaged
        raise UserError(f"--resume {path}: invalid values for {', '.join(wrong)}; {hint}")
    return state


def _is_alike(there: object, here: object) -> bool:
    # the same structure, tensors of the same shape and type; numbers may differ
    if isinstance(here, Tensor):
        return isinstance(there, Tensor) and (there.shape, there.dtype) == (here.shape, here.dtype)
    if isinstance(here, dict):
        is_dict = isinstance(there, dict) and there.keys() == here.keys()
        return is_dict and all(_is_alike(there[key], here[key]) for key in here)
    if isinstance(here, list | tuple):
        is_list = isinstance(there, list | tuple) and len(there) == len(here)
        return is_list and all(map(_is_alike, there, here))
    if isinstance(here, int | float) and not isinstance(here, bool):
        return isinstance(there, int | float) and not isinstance(there, bool)
    return type(there) is type(here)


class Outputs:
    """Writes the model file and the training state beside it, and knows what is in them; only rank 0 writes."""

    def __init__(self, command: Command, manager: RunManager) -> None:
        self.command, self.manager, self.writer = command, manager, Writer()
        manager.write = self.writer.write
        self.records_written = self.old_report_removed = False

    @property
    def model(self) -> tuple[int, int] | None:
        """Run and epoch of the network in the model file, if it is of this command."""
        return self.writer.written.get(self.command.model)

    @property
    def state(self) -> tuple[int, int, int] | None:
        """Run, epoch and step of the training state in its file, if going on from it is of use."""
        return self.writer.written.get(self.command.state)

    def set_epochs(self, run: int, epochs: int) -> None:
        """Record the epochs that --minutes came to, and the command with --epochs instead: it repeats the run."""
        self.manager.set_epochs(run, epochs)
        command = re.sub(r"--minutes[ =]\S+", f"--epochs {epochs}", self.command.about["command"])
        self.command.about["command"] = self.manager.options["command"] = command

    def resume(self, data: str, device: torch.device, description: str = "") -> tuple[dict | None, Checkpoint | None]:
        """The state to go on from, as state_dict gives it, and the network of the best run that has finished.

        data: the fingerprint of the images. description: of the network in the model file, if there is one; warns if it
        will be replaced. Either result may be None. The manager of every rank learns which run the state is of, and
        what it knows of it. Raises UserError if they don't fit together.
        """
        command, manager = self.command, self.manager
        state, best = self._read(data, device) if is_main() else (None, None)
        known = (state, manager.number, manager.finished, manager.rows_of)
        state, manager.number, manager.finished, manager.rows_of = broadcast(known)
        if command.is_resume and not state and not manager.finished:
            missing = f"{command.state} is not there" if manager.rows else "nothing was interrupted here"
            log.warning("--resume: %s, so training starts from the beginning", missing)
        is_own = manager.finished or self.model or state and command.resume_from == command.state
        if description and not is_own:
            when = "now" if state else "when its first epoch ends"
            what = f"{command.model} holds {description}"
            log.warning("%s; this run replaces it, its records and its report %s", what, when)
        return state, best

    def _read(self, data: str, device: torch.device) -> tuple[dict | None, Checkpoint | None]:
        command, manager, written = self.command, self.manager, self.writer.written
        state = best = None
        if command.resume_from:
            state = read_state(command.resume_from)
            manager.number = self._check_state(state, data, device)
            if manager.number in manager.finished:
                state = None
            else:
                manager.set_rows(state["rows"])
                written[command.state] = (manager.number, state["epoch"], state["step"] + 1)
                if not manager.finished and self._is_best_of(state):
                    written[command.model] = (manager.number, state["best_epoch"])
        if manager.finished:
            best = checkpoint.load(command.model)
            if best.training.get("fingerprint", data) != data:
                raise UserError(
                    f"--resume: {command.model} was trained on other images than are there now; put these back, or "
                    "train with a --model in another folder"
                )
            number = manager.adopt(best.config, best.metrics)
            written[command.model] = (number, best.metrics["epoch"])
            log.info("%d of %d runs had finished", len(manager.finished), manager.count)
            if number == manager.number:  # saved, but not recorded any more
                state = None
        return state, best

    def _check_state(self, state: dict, data: str, device: torch.device) -> int:
        # the number of the run that a state is of; it may have had fewer epochs
        path, hint = self.command.resume_from, STATE_FORMAT.if_damaged
        runs = [config.to_dict() for config in self.command.configs]
        differing = [differences({**state["config"], "epochs": run["epochs"]}, run) for run in runs]
        if [] not in differing:
            fewest = "; ".join(min(differing, key=len))
            raise UserError(f"--resume: the training state is of another run: {fewest}; {hint}")
        if state["data"] != data:
            old, new = (f"{each[:12]}..." for each in (state["data"], data))
            raise UserError(f"--resume {path}: is of other images (sha256 {old} there, {new} here); {hint}")
        if state["device"] != device.type:
            raise UserError(f"--resume {path}: --device {state['device']} there, {device.type} here; {hint}")
        same = [number for number, each in enumerate(differing, start=1) if not each]
        return min(same, key=lambda number: runs[number - 1]["epochs"] != state["config"].get("epochs"))

    def _is_best_of(self, state: dict) -> bool:
        # whether the network in the model file is that of the best epoch of a state
        with contextlib.suppress(UserError, LookupError):
            saved = checkpoint.load(self.command.model)
            same = {**saved.config, "epochs": 0} == {**state["config"], "epochs": 0}
            best = best_metrics(state["best_epoch"], state["rows"])
            return same and all(saved.metrics.get(name) == value for name, value in best.items())
        return False

    def save_state(self, state: TrainingState) -> None:
        """Write checkpoint.pth, between two steps, after the records that it belongs to."""
        if not self.manager.folder:
            return
        self.records_written = self.records_written or self.manager.save()
        if self.records_written:  # else those of an earlier command would contradict it
            label = (self.manager.number, state.epoch, state.step + 1)
            self.writer.write(self.command.state, state.to_bytes, label)

    def save_model(self, saved: Checkpoint) -> None:
        """Write the model file; what is left of an earlier network's report is removed with that network."""
        if not self.manager.folder:
            return
        label = (self.manager.number, saved.metrics["epoch"])
        if self.writer.write(self.command.model, saved.to_bytes, label) and not self.old_report_removed:
            for path in (self.command.plot, *self.command.report.of_all_data_sets(self.command.model.parent)):
                with contextlib.suppress(OSError):  # it isn't there, or is a folder
                    path.unlink()
            self.old_report_removed = True

    def is_model_saved(self) -> bool:
        """True if the model file is up to date."""
        return self.command.model not in self.writer.pending

    def end_run(self) -> None:
        """Try for the last time in this run to write its network. Raises OSError if that fails."""
        self.writer.retry()
        if not self.is_model_saved():
            why = "the best network could not be saved; make room, and give the same command with --resume"
            if self.command.state in self.writer.pending or not self.records_written:
                why = "neither the best network nor the training state could be saved; make room"
            raise OSError(errno.EIO, why, str(self.command.model))
        self.writer.written.pop(self.command.state, None)  # there is nothing to go on with

    def fail_run(self, number: int, reason: str, would_fail_again: bool) -> None:
        """Record that a run has failed. would_fail_again: from checkpoint.pth, too, which is deleted then."""
        self.writer.retry()
        self.manager.fail_run(number, reason)
        if would_fail_again:
            self.writer.written.pop(self.command.state, None)
            self.writer.pending.pop(self.command.state, None)
            if self.manager.folder:
                with contextlib.suppress(OSError):
                    self.command.state.unlink()

    def summary(self, resume_command: str) -> str:
        """What is saved and how to go on, to follow "interrupted" in a message."""
        run = "run {}, " if self.manager.count > 1 else ""
        model = f"; {self.command.model} was not written"
        if not self.model and self.command.model.exists():
            model = f"; {self.command.model} still holds the network that was there before"
        if self.model:
            model = f"; {self.command.model} keeps {run.format(self.model[0])}epoch {self.model[1]}"
        if len(self.manager.finished) == self.manager.count:
            return f"{model}, all is trained; {resume_command} tests and reports it"
        if self.state:
            number, epoch, step = self.state
            return f"{model}; {resume_command} goes on with {run.format(number)}epoch {epoch}, step {step}"
        return f"{model}; {resume_command} goes on" if self.manager.finished else model
