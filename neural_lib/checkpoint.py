"""The checkpoint: one file that describes itself, and the only torch.save and torch.load of the project.

The file holds tensors and plain types alone, so that weights_only=True reads it and no code in a file is ever run
(https://docs.pytorch.org/docs/stable/notes/serialization.html).
"""

import platform
import warnings
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path

import torch
from torch import Tensor, nn

from neural_lib.errors import UserError
from neural_lib.files import atomic_write
from neural_lib.models import build_model

FORMAT = "neural_lib checkpoint"
FORMAT_VERSION = 1


def _versions() -> dict[str, str]:
    packages = ("torch", "torchvision", "numpy")
    return {"python": platform.python_version()} | {package: version(package) for package in packages}


@dataclass(frozen=True)
class Checkpoint:
    """Everything that is needed to use a trained network again."""

    arch: str  # a name in models.ARCHS
    arch_args: dict  # what that network was built with
    state_dict: dict[str, Tensor]
    dataset: str  # a name in datasets.DATASETS
    classes: list[str]
    image_size: int  # pixels, height and width
    mean: list[float]  # per channel, of pixels scaled to 0..1
    std: list[float]
    config: dict  # TrainConfig.to_dict()
    metrics: dict  # of the saved epoch: epoch, train_*, val_* and, once it was scored, test_*
    versions: dict = field(default_factory=_versions)

    def build_model(self) -> nn.Module:
        """The trained network, on the CPU and in evaluation mode. Raises UserError where the weights don't fit it."""
        try:
            model = build_model(self.arch, **self.arch_args)
            model.load_state_dict(self.state_dict)
        except (KeyError, TypeError, ValueError, RuntimeError) as error:
            raise UserError(
                f"the checkpoint's weights don't fit its network {self.arch!r} {self.arch_args}: "
                f"{' '.join(str(error).split())[:200]}"
            ) from None
        return model.eval()


def save(checkpoint: Checkpoint, path: str | Path) -> None:
    """Write the checkpoint to `path`, whole or not at all."""
    content = {"format": FORMAT, "format_version": FORMAT_VERSION} | vars(checkpoint)
    with atomic_write(path) as handle:
        torch.save(content, handle)


def load(path: str | Path) -> Checkpoint:
    """Read a checkpoint without running any code that the file may hold; its tensors are on the CPU.

    Raises UserError, naming the file, where it is missing, damaged or something else than a checkpoint.
    """
    if not Path(path).is_file():
        raise UserError(f"--model {path}: no such file; train a network first (python train.py --model {path})")
    try:
        with warnings.catch_warnings(action="ignore"):  # torch's remarks on foreign files; what counts is said below
            content = torch.load(path, map_location="cpu", weights_only=True)
    except OSError as error:
        raise UserError(f"--model {path}: can't be read ({error.strerror or error})") from None
    except Exception as error:  # torch.load fails in many ways on a foreign file, and each means the same here
        raise UserError(
            f"--model {path}: {_what_is_wrong(error)}; nothing in it was run; give a file that train.py wrote"
        ) from None
    return _checked(content, path)


def _what_is_wrong(error: Exception) -> str:
    if "GLOBAL" in str(error):  # the unpickler's word for "import this and call it"
        return "holds pickled Python objects, such as torch.save(model) leaves, and loading those can run any code"
    return "is damaged, cut short or no checkpoint at all"


def _checked(content: object, path: str | Path) -> Checkpoint:
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise UserError(f"--model {path}: holds data, but is no checkpoint of train.py; train a network first")
    if content.get("format_version") != FORMAT_VERSION:
        raise UserError(
            f"--model {path}: has checkpoint format {content.get('format_version')}, and this version "
            f"reads format {FORMAT_VERSION}; use the version of the project that wrote it"
        )
    fields = {name: content.get(name) for name in Checkpoint.__dataclass_fields__}
    kinds = {"arch": str, "dataset": str, "image_size": int, "classes": list, "mean": list, "std": list}
    wrong = [name for name, value in fields.items() if not isinstance(value, kinds.get(name, dict))]
    if wrong:
        raise UserError(f"--model {path}: its {', '.join(wrong)} are missing or of the wrong kind; train it again")
    return Checkpoint(**fields)
