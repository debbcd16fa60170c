"""The checkpoint: one file that describes itself, from which a trained network can be used again."""

import platform
import textwrap
from dataclasses import dataclass, field, fields
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from neural_lib import archive
from neural_lib.config import TrainConfig
from neural_lib.errors import UserError
from neural_lib.models import build_model

if TYPE_CHECKING:
    from neural_lib.datasets import DatasetInfo

KIND = archive.Kind(
    format="neural_lib checkpoint",
    version=2,  # 1 had no checksum
    read=(1, 2),
    noun="checkpoint",
    option="--model",
    otherwise="train a network first, with train.py",
    instead="give a file that train.py wrote",
    unsummed=(1,),
)


TRAINING = {  # the keys of Checkpoint.training and their types; what is not known is left out
    "command": str,
    "started": str,  # ISO 8601
    "device": str,
    "processes": int,
    "data": str,  # the folder of the data sets
    "val_images": int,
}


def versions() -> dict[str, str]:
    # torch's own word names its build, such as 2.15.0+cpu, which the package's metadata leaves out
    return {"python": platform.python_version(), "torch": str(torch.__version__), "torchvision": version("torchvision")}


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
    glyphs: list[str] = field(default_factory=list)  # the written character of each class, where a class is one
    versions: dict = field(default_factory=versions)
    # of the command that trained it, by the names in TRAINING
    training: dict = field(default_factory=dict)

    def written(self, label: int) -> str:
        """The class name as a picture shows it, with its written character where it has one: "su す"."""
        return f"{self.classes[label]} {self.glyphs[label]}" if self.glyphs else self.classes[label]

    def to_bytes(self) -> bytearray:
        """The checkpoint as the bytes of a model file."""
        return archive.to_bytes(vars(self), KIND)

    def build_model(self) -> nn.Module:
        """The trained network, on the CPU and in evaluation mode.

        Raises UserError where the weights don't fit it, or it doesn't turn such images into scores of such classes.
        """
        try:
            model = build_model(self.arch, **self.arch_args)
            model.load_state_dict(self.state_dict)
            with torch.inference_mode():
                outputs = model.eval()(torch.zeros(1, len(self.mean), self.image_size, self.image_size)).size(1)
            if outputs != len(self.classes):
                raise ValueError(f"it tells {outputs} classes apart, and {len(self.classes)} are named")
        except (AttributeError, LookupError, TypeError, ValueError, RuntimeError) as error:
            raise UserError(
                f"the checkpoint doesn't fit together: network {self.arch!r} {self.arch_args}, "
                f"{textwrap.shorten(str(error), 200)}; train it again"
            ) from None
        return model


def for_run(config: TrainConfig, info: "DatasetInfo", arch_args: dict, training: dict | None = None) -> Checkpoint:
    """What every checkpoint of a run says; dataclasses.replace adds the weights and their metrics."""
    return Checkpoint(
        arch=config.arch,
        arch_args=arch_args,
        state_dict={},
        dataset=config.dataset,
        classes=list(info.classes),
        image_size=info.image_size,
        mean=list(info.mean),
        std=list(info.std),
        config=config.to_dict(),
        metrics={},
        glyphs=list(info.glyphs),
        training=dict(training or {}),
    )


def save(checkpoint: Checkpoint, path: str | Path) -> None:
    """Write the checkpoint to `path`, whole or not at all. Raises OSError where it can't be written."""
    archive.save(vars(checkpoint), path, KIND)


def load(path: str | Path) -> Checkpoint:
    """Read a checkpoint without running any code that the file may hold; its tensors are on the CPU.

    Raises UserError, naming the file, where it is missing, damaged or something else than a checkpoint.
    """
    content = archive.load(path, KIND)
    known = {field.name: content[field.name] for field in fields(Checkpoint) if field.name in content}
    try:
        saved = Checkpoint(**known)
    except TypeError:  # a field without a default is missing
        raise UserError(f"--model {path}: is an incomplete checkpoint; train the network again") from None
    if wrong := _wrong_fields(saved):
        raise UserError(f"--model {path}: something else than a checkpoint's own in {', '.join(wrong)}; train it again")
    return saved


def replacement_warning(path: Path, at: str) -> str:
    """One line about the network that a new one is going to replace in `path`; nothing where there is none.

    at: when that will be.
    """
    if not path.exists():
        return ""
    try:
        saved = load(path)
    except UserError:
        what = "a damaged model file"
    else:
        accuracy = saved.metrics.get("test_accuracy")
        scored = "not scored on its test set" if accuracy is None else f"test accuracy {accuracy:.4f}"
        what = f"{saved.arch} trained on {saved.dataset}, {scored}"
    return f"{path} holds {what}; this run replaces it, its records and its report {at}"


def _wrong_fields(saved: Checkpoint) -> list[str]:
    # whether the weights fit the network is build_model's to say
    right = {
        "arch": isinstance(saved.arch, str),
        "arch_args": isinstance(saved.arch_args, dict),
        "state_dict": isinstance(saved.state_dict, dict) and all(isinstance(name, str) for name in saved.state_dict),
        "dataset": isinstance(saved.dataset, str),
        "classes": _is_list(saved.classes, str),
        "image_size": isinstance(saved.image_size, int) and 1 <= saved.image_size <= 4096,
        "mean": _is_list(saved.mean, float) and len(saved.mean) in (1, 3),
        "std": _is_list(saved.std, float),
        "config": isinstance(saved.config, dict),
        "metrics": isinstance(saved.metrics, dict) and _is_list(list(saved.metrics.values()), int | float),
        "glyphs": _is_list(saved.glyphs, str),
        "versions": isinstance(saved.versions, dict),
        "training": isinstance(saved.training, dict)
        and all(type(value) is TRAINING.get(name, type(value)) for name, value in saved.training.items()),
    }
    wrong = [name for name, is_right in right.items() if not is_right]
    if not wrong and len(saved.std) != len(saved.mean):
        wrong.append("std")
    if not wrong and len(saved.glyphs) not in (0, len(saved.classes)):
        wrong.append("glyphs")
    return wrong


def _is_list(value: object, kind: type) -> bool:
    return isinstance(value, list) and all(isinstance(item, kind) for item in value)
