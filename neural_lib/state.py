"""The training state: all that an interrupted run needs to end, to the bit, where it would have."""

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import NamedTuple

from neural_lib import archive
from neural_lib.config import TrainConfig, may_train_longer
from neural_lib.errors import UserError
from neural_lib.records import MEASURES
from neural_lib.results import differences

KIND = archive.Kind(
    format="neural_lib training state",
    version=1,
    read=(1,),
    noun="training state",
    option="--resume",
    otherwise="give the checkpoint.pth of an interrupted run",
    instead="delete it to begin anew",
)


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

    def where(self) -> str:
        """What comes next: "epoch 3, step 118"."""
        return f"epoch {self.epoch}, step {self.step + 1}"


def save(state: TrainingState, path: str | Path) -> None:
    """Write the state to `path`, whole or not at all. Raises OSError where it can't be written."""
    archive.save({each.name: getattr(state, each.name) for each in fields(state)}, path, KIND)


def load(path: str | Path) -> TrainingState:
    """Read what `save` wrote. Raises UserError, naming the file, where it is something else or damaged."""
    content = archive.load(path, KIND)
    known = {each.name: content.get(each.name) for each in fields(TrainingState)}
    state = TrainingState(**known)
    right = {
        **{
            name: _has_names(known[name])
            for name in ("config", "scores", "model", "optimizer", "generators", "versions")
        },
        **{name: isinstance(known[name], dict | None) for name in ("scheduler", "best")},
        **{name: isinstance(known[name], str) for name in ("data", "device")},
        "epoch": isinstance(state.epoch, int) and state.epoch >= 1,
        "step": isinstance(state.step, int) and state.step >= 0,
        "measures": isinstance(state.measures, list) and all(map(_is_measures, state.measures)),
        "seconds": isinstance(state.seconds, float) and math.isfinite(state.seconds),
    }
    if wrong := [name for name, is_right in right.items() if not is_right]:
        raise UserError(f"--resume {path}: something else than a state's own in {', '.join(wrong)}; {KIND.instead}")
    return state


def _has_names(value: object) -> bool:
    return isinstance(value, dict) and all(isinstance(name, str) for name in value)


def _is_measures(each: object) -> bool:
    is_row = isinstance(each, dict) and set(each) == set(MEASURES)
    return is_row and all(value is None or isinstance(value, int | float) for value in each.values())


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
            f"{KIND.instead}"
        )
    if state.device != device:
        raise UserError(f"--resume {path}: --device {state.device} there, {device} here; {KIND.instead}")
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
    raise UserError(f"--resume: the training state is of another run: {'; '.join(told)}; {KIND.instead}")
