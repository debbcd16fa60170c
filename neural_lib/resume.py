"""What an interrupted command left, and how it goes on: decided and told without torch."""

import os
from collections.abc import Collection
from pathlib import Path

from neural_lib.errors import UserError
from neural_lib.files import check_input
from neural_lib.records import Records

STATE_NAME = "checkpoint.pth"  # beside the model
STATE_MARK = b"neural_lib training state"  # stands in every one
MODEL_MARK = b"neural_lib checkpoint"  # stands in the first MODEL_HEAD bytes of every model file
MODEL_HEAD = 4096


def check_resume(resume: bool | str, state_path: Path) -> Path | None:
    """The training state to go on from, if any. Raises UserError where there is none, or one that would be lost."""
    if state_path.exists() and STATE_MARK not in state_path.read_bytes():
        raise UserError(f"{state_path}: is no training state of train.py; move it, or give a --model in another folder")
    if isinstance(resume, str):
        resume = os.path.join(resume, STATE_NAME) if os.path.isdir(resume) else resume
        check_input(resume, "--resume", otherwise=f"give the {STATE_NAME} of an interrupted run")
        if state_path.exists() and not os.path.samefile(resume, state_path):
            raise UserError(
                f"--resume {resume}: {state_path} is there too and would be replaced: give --resume alone to go on "
                "with that, or delete it"
            )
        return Path(resume)
    if state_path.exists() and not resume:
        raise UserError(
            f"{state_path} is of an interrupted run: go on with --resume, give a --model in another folder, "
            "or delete that file"
        )
    return state_path if state_path.exists() else None


def check_only_model(path: Path, suffixes: Collection[str]) -> None:
    """Raise UserError where a new model `path` would share its folder with another one.

    The report, the records and the pictures beside a model are its own, and would be replaced by the new one's. A copy
    beside a model that is there already does no harm. suffixes: of model files.
    """
    if path.exists():
        return
    for other in sorted(path.parent.iterdir()):
        if other.suffix.lower() in suffixes and other.is_file() and _is_model(other):
            raise UserError(
                f"--model {path}: {other} is a network in the same folder, and its report, records and pictures would "
                "be replaced; give each network a folder of its own"
            )


def _is_model(path: Path) -> bool:
    try:
        with path.open("rb") as handle:
            return MODEL_MARK in handle.read(MODEL_HEAD)
    except OSError:
        return False


def what_is_kept(model: str, state: str, records: Records, number: int, digits: str) -> str:
    """What an interrupted command has reached, and how to go on, to be said after "interrupted".

    model: what the model file keeps, in words. state: how far the training state has come, if there is one. number: of
    the run that it is of. digits: " --dataset digits" where the command fell back to them.
    """
    same = f"the same command with{digits} --resume"
    if len(records.finished) == records.count:
        return f"; {model}, all is trained; {same} tests and reports it"
    if not records.finished and not state:
        return f"; {model}"
    of_run = f"run {number}, " if records.count > 1 else ""
    where = f" with {of_run}{state}" if state else ""
    return f"; {model}; {same} goes on{where}"
