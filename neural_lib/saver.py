"""Takes the state of a run that is under way, and puts a run where a state says."""

import logging
import textwrap
from pathlib import Path

import torch
from torch import Tensor

from neural_lib import seeds
from neural_lib.callbacks import BestEpoch
from neural_lib.checkpoint import versions
from neural_lib.errors import UserError
from neural_lib.evaluation import Evaluation
from neural_lib.experiment import Experiment
from neural_lib.metrics import RunningScores
from neural_lib.runs import RunManager
from neural_lib.state import KIND, TrainingState, save
from neural_lib.training import Callback, Position

ADAMS = {"step", "exp_avg", "exp_avg_sq"}
MOMENTS = {"adam": ADAMS, "adamw": ADAMS, "sgd": {"momentum_buffer"}}  # what an optimizer keeps of each parameter

log = logging.getLogger(__name__)


class StateFile:
    """The file for the state of a command's run that is under way; `where` says how far what it holds has come."""

    def __init__(self, path: Path) -> None:
        self.path, self.where = path, ""

    def save(self, state: TrainingState) -> None:
        """Write the state, whole or not at all; where that fails, the run is warned and the state before stays."""
        try:
            save(state, self.path)
        except OSError as error:
            log.warning("%s: %s; the training state could not be saved", self.path, error.strerror)
        else:
            self.where = state.where()

    def remove(self) -> None:
        """Nothing is under way any more."""
        self.path.unlink(missing_ok=True)
        self.where = ""


class StateSaver(Callback):
    """Saves the state of an experiment after each epoch, after every `every` steps of it (0: never), and when asked.

    It comes last among the callbacks: an epoch is behind us when all others know of it. An epoch after which `ending`
    stops the training isn't: a run that went on from there would not stop. data: the images' fingerprint.
    """

    def __init__(
        self,
        file: StateFile,
        experiment: Experiment,
        best: BestEpoch,
        ending: Callback,
        manager: RunManager,
        data: str,
        every: int = 0,
    ) -> None:
        self.file, self.experiment, self.best, self.ending = file, experiment, best, ending
        self.manager, self.data, self.every = manager, data, every
        self.device = experiment.train_set.images.device
        self._note_order()

    def _note_order(self) -> None:
        # the order of the epoch that the position is in, and those of all later ones, are drawn from here on
        self.order = self.experiment.generators()["shuffle"].get_state()

    def on_batch_end(self, scores: RunningScores) -> None:
        if self.every and self.experiment.position.step % self.every == 0:
            self.save()

    def on_epoch_end(self, epoch: int, train: RunningScores, val: Evaluation) -> None:
        self._note_order()
        if not self.ending.stop:
            self.save()

    def save(self) -> None:
        """Write the state; to be called between two steps."""
        if not self.manager.records.is_written:  # those of an earlier command would contradict it
            self.manager.save()
        self.file.save(self.state())

    def state(self) -> TrainingState:
        """What there is now; its tensors are the experiment's own."""
        experiment, position = self.experiment, self.experiment.position
        own = {name: generator.get_state() for name, generator in experiment.generators().items()}
        return TrainingState(
            config=experiment.config.to_dict(),
            data=self.data,
            device=self.device.type,
            epoch=position.epoch,
            step=position.step,
            scores=position.scores.state_dict(),
            model=experiment.model.state_dict(),
            optimizer=experiment.optimizer.state_dict(),
            scheduler=experiment.scheduler.state_dict() if experiment.scheduler else None,
            generators={**seeds.random_state(self.device), **own, "shuffle": self.order},
            best={"state_dict": self.best.state_dict, "metrics": self.best.metrics} if self.best.epoch else None,
            measures=self.manager.measures(),
            seconds=self.manager.seconds(),
            versions=versions(),
        )


def restore(state: TrainingState, experiment: Experiment, best: BestEpoch) -> None:
    """Put an experiment, fresh and of the same configuration, where the state was taken.

    Raises UserError where the two don't fit together.
    """
    device = experiment.train_set.images.device
    _check_parts(state, experiment, best)
    try:
        experiment.model.load_state_dict(state.model)
        experiment.optimizer.load_state_dict({**state.optimizer, "state": _own_moments(state, experiment)})
        if experiment.scheduler:
            experiment.scheduler.load_state_dict(state.scheduler)
        experiment.position = Position(state.epoch, state.step)
        experiment.position.scores.load_state_dict(state.scores, device)
        experiment.train_loader.sampler.skip = state.step
        for name, generator in experiment.generators().items():
            generator.set_state(state.generators[name])
        seeds.set_random_state(state.generators, device)
        if state.best is not None:
            best.take_over(state.best["state_dict"], state.best["metrics"])
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError, RuntimeError) as error:
        why = textwrap.shorten(str(error), 200)
        raise UserError(f"--resume: the training state doesn't fit together ({why}); {KIND.instead}") from None
    if other := [f"{name} {old}" for name, old in state.versions.items() if versions().get(name) != old]:
        log.warning("the training state was written with %s: the last digits may come out otherwise", ", ".join(other))


def _check_parts(state: TrainingState, experiment: Experiment, best: BestEpoch) -> None:
    # what a checksum can't tell: whoever made it may have meant harm, and torch's optimizers take any shape on trust
    epochs, steps = experiment.config.epochs, len(experiment.train_loader)
    fresh, names = experiment.optimizer.state_dict(), MOMENTS[experiment.config.optimizer]
    shapes = [parameter.shape for parameter in _parameters(experiment)]
    moments = state.optimizer.get("state")
    right = {
        "model": _alike(state.model, experiment.model.state_dict()),
        "optimizer": _alike(state.optimizer.get("param_groups"), fresh["param_groups"])
        and isinstance(moments, dict)
        and all(
            index in range(len(shapes)) and isinstance(each, dict) and _are_moments(each, names, shapes[index])
            for index, each in moments.items()
        ),
        "scheduler": _alike(state.scheduler, experiment.scheduler.state_dict() if experiment.scheduler else None),
        "best": state.best is None
        or set(state.best) == {"state_dict", "metrics"}
        and _alike(state.best["state_dict"], experiment.model.state_dict())
        and _alike(state.best["metrics"], dict.fromkeys(best.NAMES, 0.0))
        and 1 <= state.best["metrics"]["epoch"] < state.epoch,
        "scores": set(state.scores) == set(RunningScores().state_dict())
        and all(
            isinstance(each, int | float) or isinstance(each, Tensor) and not each.dim()
            for each in state.scores.values()
        ),
        "epoch": state.epoch <= epochs + 1,
        "step": state.step <= steps,
        "measures": len(state.measures) == state.epoch - 1,
    }
    if wrong := [name for name, is_right in right.items() if not is_right]:
        raise UserError(f"--resume: the training state doesn't fit together ({', '.join(wrong)}); {KIND.instead}")


def _parameters(experiment: Experiment) -> list[Tensor]:
    # in the order in which the optimizer counts them
    return [parameter for group in experiment.optimizer.param_groups for parameter in group["params"]]


def _own_moments(state: TrainingState, experiment: Experiment) -> dict[int, dict[str, Tensor]]:
    # in memory laid out as each parameter's: a fused step goes by that, whatever strides a file may tell
    parameters = _parameters(experiment)
    return {
        index: {
            name: value.clone() if name == "step" else torch.empty_like(parameters[index]).copy_(value)
            for name, value in moments.items()
        }
        for index, moments in state.optimizer["state"].items()
    }


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
