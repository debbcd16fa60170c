"""What whole commands of train.py leave, to be compared and to be gone on from."""

import json
from pathlib import Path
from typing import NamedTuple

from torch import Tensor

from neural_lib import checkpoint


class Finished(NamedTuple):
    """A command that has run to its end."""

    outcome: dict
    files: dict[str, bytes]  # of the model's folder, by name


def outcome(folder: str | Path) -> dict:
    """All that a command leaves in its model's folder but its durations and how it was written."""
    saved = checkpoint.load(f"{folder}/model.pth")
    results = json.loads(Path(folder, "results.json").read_text())
    del results["options"], results["params"]
    for row in results["rows"]:
        assert row.pop("epoch_duration") > 0 and row.pop("run_duration") > 0
    return {
        "weights": {name: value.numpy().tobytes() for name, value in saved.state_dict.items()},
        "metrics": saved.metrics,
        "calibration": {
            name: value.tolist() if isinstance(value, Tensor) else value for name, value in saved.calibration.items()
        },
        "config": saved.config,
        "results": results,
        "report": Path(folder, "report.json").read_bytes(),
    }


def read_files(folder: str | Path) -> dict[str, bytes]:
    """The files in a folder, by name."""
    return {path.name: path.read_bytes() for path in sorted(Path(folder).iterdir()) if path.is_file()}


_finished: dict[tuple, Finished] = {}


def finished(run_train, *command: object) -> Finished:
    """The command run to its end, once for all tests: it must not depend on anything but few_digits."""
    if command not in _finished:
        run_train(*command, "-m", "whole/model.pth")
        _finished[command] = Finished(outcome("whole"), read_files("whole"))
    return _finished[command]
