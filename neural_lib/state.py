"""The training state: all that an interrupted run needs to end, to the bit, where it would have."""

import logging
import textwrap
from collections.abc import Collection, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import NamedTuple

from neural_lib import archive, runtime
from neural_lib.callbacks import BestEpoch
from neural_lib.checkpoint import versions
from neural_lib.config import TrainConfig, may_train_longer
from neural_lib.errors import UserError
from neural_lib.evaluation import Evaluation
from neural_lib.experiment import Experiment
from neural_lib.metrics import RunningScores
from neural_lib.records import MEASURES
from neural_lib.results import differences
from neural_lib.runs import RunManager
from neural_lib.training import Callback, Position

KIND = archive.Kind(
    format="neural_lib training state",
    version=1,
    read=(1,),
    noun="training state",
    option="--resume",
    otherwise="begin anew, without --resume",
)

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class TrainingState:
    """A run between two of its steps."""

    config: dict  # TrainConfig.to_dict()
    data: str  # datasets.fingerprint of what is trained and validated on
    device: str  # "cpu", "cuda": generators of one kind of device are nothing to another
    epoch: int  # the one under way, from 1
    step: int  # batches of it that have been learned, the first ones of the order that "shuffle" draws
    scores: dict  # of these batches, RunningScores.state_dict()
    model: dict  # the state_dicts of torch
    optimizer: dict
    scheduler: dict | None
    generators: dict  # random_state(), and of the experiment's own; "shuffle" is where it was when the epoch began
    best: dict | None  # state_dict and metrics of the best epoch so far
    measures: list  # of each epoch that has ended, as records.MEASURES names them
    seconds: float  # that the run has taken
    versions: dict


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
            self.where = f"epoch {state.epoch}, step {state.step + 1}"

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
            generators={**runtime.random_state(self.device), **own, "shuffle": self.order},
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
    try:
        experiment.model.load_state_dict(state.model)
        experiment.optimizer.load_state_dict(state.optimizer)
        if experiment.scheduler:
            experiment.scheduler.load_state_dict(state.scheduler)
        experiment.position = Position(state.epoch, state.step)
        experiment.position.scores.load_state_dict(state.scores, device)
        experiment.train_loader.sampler.skip = state.step
        for name, generator in experiment.generators().items():
            generator.set_state(state.generators[name])
        runtime.set_random_state(state.generators, device)
        if state.best is not None:
            best.take_over(state.best["state_dict"], state.best["metrics"])
    except (AttributeError, LookupError, TypeError, ValueError, RuntimeError) as error:
        why = textwrap.shorten(str(error), 200)
        raise UserError(f"--resume: the training state doesn't fit together ({why}); {KIND.otherwise}") from None
    if other := [f"{name} {old}" for name, old in state.versions.items() if versions().get(name) != old]:
        log.warning("the training state was written with %s: the last digits may come out otherwise", ", ".join(other))


def save(state: TrainingState, path: str | Path) -> None:
    """Write the state to `path`, whole or not at all. Raises OSError where it can't be written."""
    archive.save({each.name: getattr(state, each.name) for each in fields(state)}, path, KIND)


def load(path: str | Path) -> TrainingState:
    """Read what `save` wrote. Raises UserError, naming the file, where it is something else or damaged."""
    content = archive.load(path, KIND)
    known = {each.name: content.get(each.name) for each in fields(TrainingState)}
    state = TrainingState(**known)
    right = {
        **{name: isinstance(known[name], dict) for name in ("config", "scores", "model", "optimizer", "generators")},
        **{name: isinstance(known[name], dict | None) for name in ("scheduler", "best")},
        **{name: isinstance(known[name], str) for name in ("data", "device")},
        "epoch": isinstance(state.epoch, int) and state.epoch >= 1,
        "step": isinstance(state.step, int) and state.step >= 0,
        "measures": isinstance(state.measures, list) and all(set(each) == set(MEASURES) for each in state.measures),
        "seconds": isinstance(state.seconds, float),
        "versions": isinstance(state.versions, dict),
    }
    if wrong := [name for name, is_right in right.items() if not is_right]:
        raise UserError(f"--resume {path}: something else than a state's own in {', '.join(wrong)}; {KIND.otherwise}")
    return state


class Found(NamedTuple):
    """A state, and the number of the run that it is of, counted from 1."""

    run: int
    state: TrainingState


def find(
    path: Path | None, configs: Sequence[TrainConfig], finished: Collection[int], data: str, device: str
) -> Found | None:
    """The state in the file `path`, where there is one and its run has not finished.

    configs: of each run, one of which it must be of; more epochs than it had are as good. data: the images'
    fingerprint. device: "cpu", "cuda". Raises UserError, telling what differs, where it doesn't fit.
    """
    if path is None:
        return None
    state = load(path)
    run = _run_of(state, configs, finished)
    if run in finished:  # what was left when the process died between the run's end and the removal of its state
        return None
    if state.data != data:
        raise UserError(
            f"--resume {path}: is of other images (sha256 {state.data[:12]}... there, {data[:12]}... here); "
            f"{KIND.otherwise}"
        )
    if state.device != device:
        raise UserError(f"--resume {path}: --device {state.device} there, {device} here; {KIND.otherwise}")
    return Found(run, state)


def _run_of(state: TrainingState, configs: Sequence[TrainConfig], finished: Collection[int]) -> int:
    here = [config.to_dict() for config in configs]
    for number, config in enumerate(here, start=1):
        there = state.config
        if number not in finished and may_train_longer([there], [config]):
            there = {**there, "epochs": config["epochs"]}
        if there == config:
            return number
    told = min((differences([state.config], [each]) for each in here), key=len)
    raise UserError(f"--resume: the training state is of another run: {'; '.join(told)}; {KIND.otherwise}")
