"""What earlier commands left in the model's folder, and whether it may be replaced: decided without torch."""

import os
from collections.abc import Collection
from pathlib import Path

from neural_lib.errors import UserError
from neural_lib.files import check_input
from neural_lib.results import read_json

STATE_NAME = "checkpoint.pth"  # beside the model
STATE_MARK = b"neural_lib training state"  # stands in the first HEAD bytes of every training state
MODEL_MARK = b"neural_lib checkpoint"  # and this in those of every model file
HEAD = 4096


def find_state(resume: bool | str, state_path: Path) -> Path | None:
    """The training state to go on from, if any.

    resume: --resume, without or with a path. Raises UserError where there is none at that path, or one beside the model
    that would be lost.
    """
    _check_state(state_path)
    if isinstance(resume, str):
        resume = os.path.join(resume, STATE_NAME) if os.path.isdir(resume) else resume
        check_input(resume, "--resume", otherwise=f"give the {STATE_NAME} of a run")
        if state_path.exists() and not os.path.samefile(resume, state_path):
            raise UserError(
                f"--resume {resume}: {state_path} is there too and would be replaced: give --resume alone to go on "
                "with that, or delete it"
            )
        return state_path if state_path.exists() else Path(resume)  # whatever it is called
    return state_path if resume and state_path.exists() else None


def _check_state(path: Path) -> None:
    if path.exists() and not _is_marked(path, STATE_MARK):
        raise UserError(f"{path}: is no training state of train.py; move it, or give a --model in another folder")


def check_replaceable(results_path: Path, state_path: Path) -> None:
    """Raise UserError where a new command would replace a run or a grid that has not finished."""
    _check_state(state_path)
    found = read_json(results_path)
    advice = "go on with --resume, give a --model in another folder, or delete"
    if found:
        finished, failed, count = (len(found[key]) for key in ("finished", "failures", "runs"))
        if finished and finished + failed < count:
            raise UserError(
                f"{results_path} is of an interrupted grid, {finished} of {count} runs have finished: {advice} that "
                f"file and {STATE_NAME}, if it is there"
            )
    if state_path.exists() and not (found and found["tested"]):
        raise UserError(f"{state_path} is of an interrupted run: {advice} that file")


def check_model(path: Path, suffixes: Collection[str]) -> None:
    """Raise UserError where a model can't go to `path`: it is something else, or the folder is another model's.

    The records, report and pictures in a folder are of one model, which results.json names, and would be replaced by
    another's. A copy of it does no harm there. suffixes: of model files.
    """
    if path.exists() and path.stat().st_size and not _is_marked(path, MODEL_MARK):
        raise UserError(f"--model {path}: is no model file of train.py; move it, or choose another name")
    others = [each for each in sorted(path.parent.iterdir()) if each.suffix.lower() in suffixes and each != path]
    for other in others:
        is_new = not path.exists() or owner_of(path.parent, default=path.name) != path.name
        if is_new and other.is_file() and _is_marked(other, MODEL_MARK):
            raise UserError(
                f"--model {path}: {other} is a network in the same folder, and its report, records and pictures would "
                "be replaced; give each network a folder of its own"
            )


def owner_of(folder: Path, default: str) -> str:
    """The name of the model file that the records in a folder are of, as long as it is there; else `default`."""
    try:
        found = read_json(folder / "results.json")
    except UserError:
        return default
    name = (found or {"options": {}})["options"].get("model", default)
    return name if (folder / name).exists() else default


def _is_marked(path: Path, mark: bytes) -> bool:
    try:
        with path.open("rb") as handle:
            return mark in handle.read(HEAD)
    except OSError:
        return False
