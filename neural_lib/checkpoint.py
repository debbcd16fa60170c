"""model.pth: a file that describes itself, with all that is needed to use a trained network again.

It holds only tensors and plain types, and is read with weights_only=True, which runs no code from the file
(https://docs.pytorch.org/docs/stable/notes/serialization.html). It is torch.save's zip archive. torch.load
doesn't check the archive's CRCs, so the comment at the archive's end holds a sha256 of every byte before it.
"""

import hashlib
import io
import math
import platform
import struct
import textwrap
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from importlib.metadata import version
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn

from neural_lib.config import FITS, TrainConfig
from neural_lib.data.catalog import DATASETS, DatasetInfo, Placement, Preparation
from neural_lib.networks import build_network
from neural_lib.system.errors import UserError
from neural_lib.system.files import check_input

MARK = b"neural_lib sha256 "  # then 64 hexadecimal digits
COMMENT_SIZE = len(MARK) + 64
END = b"PK\x05\x06"  # begins the last record of a zip archive: 22 bytes, the last two the comment's length
END_SIZE = 22


class FileFormat(NamedTuple):
    """A kind of file: its name and versions, and the advice in messages about it."""

    name: str  # as it stands in the file
    version: int  # the one that is written
    readable: tuple[int, ...]  # those that can be read
    noun: str  # "checkpoint"
    option: str  # "--model", which gives the path; empty where none does
    if_missing: str  # advice
    if_damaged: str
    without_checksum: tuple[int, ...] = ()  # versions from before there was one


MODEL_FORMAT = FileFormat(
    name="neural_lib checkpoint",
    version=2,
    readable=(1, 2),
    noun="checkpoint",
    option="--model",
    if_missing="train a network first, with train.py",
    if_damaged="give a file that train.py wrote",
    without_checksum=(1,),
)
TRAINING = {  # the keys of Checkpoint.training and their types; what is not known is left out
    "command": str,
    "started": str,  # ISO 8601
    "device": str,
    "processes": int,
    "data": str,  # the folder of the data sets
    "val_images": int,
    "init": str,  # the model file whose weights it began from
    "init_sha256": str,  # of that file
    "fingerprint": str,  # of one's own images to train on
    "test_seed": int,  # that drew which of them are held out for test
}
HOTTEST = 20.0  # the highest temperature in Checkpoint.calibration, and one over the lowest
DISTANCE = ("mean", "directions", "outside", "highest", "threshold")  # all of these in Checkpoint.calibration, or none


def archive_bytes(content: Mapping[str, object], kind: FileFormat) -> bytearray:
    """Tensors and plain types as the bytes of a file."""
    file = io.BytesIO()
    torch.save({"format": kind.name, "format_version": kind.version, **content}, file)
    archive = bytearray(file.getbuffer())
    end = len(archive) - END_SIZE
    assert archive[end : end + 4] == END and archive[-2:] == b"\0\0", (
        "torch.save's archive has another end than expected"
    )
    archive[-2:] = struct.pack("<H", COMMENT_SIZE)
    archive += MARK
    archive += hashlib.sha256(archive).hexdigest().encode()
    return archive


def load_archive(path: str | Path, kind: FileFormat) -> dict:
    """Read what archive_bytes made, its tensors on the CPU, without running any code that the file may hold.

    Raises UserError, naming the file, if it is missing, damaged, or of another format or version.
    """

    name = f"{kind.option} {path}".strip()

    def refusal(why: str) -> UserError:
        return UserError(f"{name}: {why}; nothing in it was run; {kind.if_damaged}")

    check_input(path, kind.option, kind.if_missing)
    archive = Path(path).read_bytes()
    has_checksum = archive[-COMMENT_SIZE:].startswith(MARK)
    if has_checksum and hashlib.sha256(archive[:-64]).hexdigest().encode() != archive[-64:]:
        raise refusal("is damaged: its checksum does not match")
    try:
        with warnings.catch_warnings(action="ignore"):  # torch's remarks on foreign files; what counts is said below
            content = torch.load(io.BytesIO(archive), map_location="cpu", weights_only=True)
    except Exception as error:  # torch.load fails in many ways on a foreign file, and each means the same here
        if "GLOBAL" in str(error):  # the unpickler's word for "import this and call it"
            why = "holds pickled Python objects, such as torch.save(model) leaves, and loading those can run any code"
            raise refusal(why) from None
        raise refusal(f"is damaged, cut short or no {kind.noun} at all") from None
    if not isinstance(content, dict) or content.get("format") != kind.name:
        raise UserError(f"{name}: holds data, but is no {kind.noun} of train.py; {kind.if_missing}")
    found = content.get("format_version")
    if not isinstance(found, int) or found not in kind.readable:
        raise UserError(
            f"{name}: has {kind.noun} format {found}, and this version reads format "
            f"{' and '.join(map(str, kind.readable))}; use the version of the project that wrote it, or "
            f"{kind.if_damaged}"
        )
    if not has_checksum and found not in kind.without_checksum:
        raise refusal("is damaged or was changed: it lacks its checksum")
    return content


def versions() -> dict[str, str]:
    """The versions of Python, torch and torchvision, as each checkpoint records them."""
    # torch's own word names its build, such as 2.15.0+cpu, which the package's metadata leaves out
    return {"python": platform.python_version(), "torch": str(torch.__version__), "torchvision": version("torchvision")}


@dataclass(frozen=True)
class Checkpoint:
    """Everything that is needed to use a trained network again."""

    arch: str  # a name in config.ARCHS
    arch_args: dict  # what that network was built with
    state_dict: dict[str, Tensor]
    dataset: str  # a name in catalog.DATASETS, or the path of one's own
    classes: list[str]
    image_size: int  # pixels, height and width
    mean: list[float]  # per channel, of pixels scaled to 0..1
    std: list[float]
    config: dict  # TrainConfig.to_dict()
    metrics: dict  # of the saved epoch: epoch, train_*, val_* and, once it was scored, test_*
    glyphs: list[str] = field(default_factory=list)  # the written character of each class, where a class is one
    versions: dict = field(default_factory=versions)
    training: dict = field(default_factory=dict)  # of the command that trained it, by the names in TRAINING
    placement: dict | None = None  # catalog.Placement's fields, or none of them for photos; None in older files
    fit: str = "crop"  # of photos: one of config.FITS
    calibration: dict = field(default_factory=dict)  # what evaluation.calibration.calibrate returned; {} in older files

    @property
    def preparation(self) -> Preparation:
        """How a picture becomes an image that the network takes."""
        placement = Placement(**self.placement) if self.placement else None
        return Preparation(self.image_size, len(self.mean), placement, self.fit)

    @property
    def labels(self) -> dict[str, int]:
        """The label of each class, by its name and by its written character."""
        return {name: label for names in (self.glyphs, self.classes) for label, name in enumerate(names)}

    def display_name(self, label: int) -> str:
        """The class name as a picture shows it, with its written character where it has one: "su す"."""
        return f"{self.classes[label]} {self.glyphs[label]}" if self.glyphs else self.classes[label]

    def to_bytes(self) -> bytearray:
        """The checkpoint as the bytes of a model file."""
        return archive_bytes(vars(self), MODEL_FORMAT)

    def build_model(self) -> nn.Module:
        """The trained network, on the CPU and in evaluation mode.

        Raises UserError if the weights don't fit it, or it doesn't turn such images into scores of such classes.
        """
        try:
            model = build_network(self.arch, **self.arch_args)
            model.load_state_dict(self.state_dict)
            with torch.inference_mode():
                outputs = model.eval()(torch.zeros(1, len(self.mean), self.image_size, self.image_size)).size(1)
            if outputs != len(self.classes):
                raise ValueError(f"it tells {outputs} classes apart, and {len(self.classes)} are named")
            *_, last_layer = (each for each in model.modules() if isinstance(each, nn.Linear))
            if "mean" in self.calibration and len(self.calibration["mean"]) != last_layer.in_features:
                raise ValueError("its calibration is of another network")
        except (AttributeError, LookupError, TypeError, ValueError, RuntimeError, UserError) as error:
            raise UserError(
                f"the checkpoint doesn't fit together: network {self.arch!r} {self.arch_args}, "
                f"{textwrap.shorten(str(error), 200)}; train it again"
            ) from None
        return model


def for_run(
    config: TrainConfig, info: DatasetInfo, arch_args: dict, statistics: tuple[list[float], list[float]], training: dict
) -> Checkpoint:
    """The checkpoint of a run without weights and metrics, which dataclasses.replace adds.

    statistics: mean and standard deviation of each channel.
    """
    mean, std = statistics
    return Checkpoint(
        arch=config.arch, arch_args=arch_args, state_dict={}, dataset=config.dataset, classes=list(info.classes),
        image_size=info.image_size, mean=mean, std=std, config=config.to_dict(), metrics={}, glyphs=list(info.glyphs),
        training=training, placement=info.placement._asdict() if info.placement else {}, fit=info.fit,
    )  # fmt: skip


def load(path: str | Path, option: str = "--model") -> Checkpoint:
    """Read a checkpoint without running any code that the file may hold; its tensors are on the CPU.

    option: that gave the path. Raises UserError, naming both, if the file is missing, damaged or something else than a
    checkpoint.
    """
    name = f"{option} {path}".strip()
    content = load_archive(path, MODEL_FORMAT._replace(option=option))
    known = {each.name: content[each.name] for each in fields(Checkpoint) if each.name in content}
    try:
        saved = Checkpoint(**known)
    except TypeError:  # a field without a default is missing
        raise UserError(f"{name}: is an incomplete checkpoint; train the network again") from None
    if wrong := _wrong_fields(saved):
        raise UserError(f"{name}: invalid values for {', '.join(wrong)}; train it again")
    if saved.placement is None:  # written before placements stood in the file
        if saved.dataset not in DATASETS:
            known = ", ".join(DATASETS)
            raise UserError(f"{name}: its data set {saved.dataset!r} is not one of {known}; train it again")
        placement = DATASETS[saved.dataset].placement
        saved = replace(saved, placement=placement._asdict() if placement else {})
    return saved


def load_initial(path: str | Path, configs: Sequence[TrainConfig]) -> Checkpoint:
    """Read the checkpoint that --init names. Raises UserError if it is of another network than the configurations."""
    saved = load(path, "--init")
    for config in configs:
        there, here = (saved.arch, saved.arch_args.get("width", 0)), (config.arch, config.width)
        if there != here:
            options = f"--arch {there[0]}{f' --width {there[1]}' if there[1] != here[1] else ''}"
            raise UserError(f"--init {path}: is another network than is to be trained; give {options}")
    return saved


def begin_from(model: nn.Module, saved: Checkpoint, classes: Sequence[str]) -> list[str]:
    """Copy a trained network's weights into another one of the same kind; returns what keeps its initial values.

    Weights of another shape do. The last layer has a row for each class, and those are copied whose classes both
    networks have, by name or written character. Raises UserError if the checkpoint's parts don't fit together.
    """
    own, there, fresh = model.state_dict(), saved.build_model().state_dict(), []
    here = [label for label, name in enumerate(classes) if name in saved.labels]
    rows = [saved.labels[classes[label]] for label in here]
    *_, weight, bias = own  # every network ends in a linear layer
    for name, value in own.items():
        if name in (weight, bias) and value.shape[1:] == there[name].shape[1:]:
            value[here] = there[name][rows].to(value.device)
        elif value.shape == there[name].shape:
            value.copy_(there[name])
        else:
            fresh.append(f"{name} (of another shape)")
    if len(here) < len(classes):
        which = "its classes" if not here else f"{len(classes) - len(here)} of its {len(classes)} classes"
        fresh.append(f"the last layer for {which}")
    return fresh


def describe(path: Path) -> tuple[str, str]:
    """The data set that the network in a model file was trained on, and a phrase about it; of any file, or none."""
    if not path.exists():
        return "", ""
    try:
        saved = load(path)
    except UserError:
        return "", "a damaged model file"
    accuracy = saved.metrics.get("test_accuracy")
    scored = "not scored on its test set" if accuracy is None else f"test accuracy {accuracy:.4f}"
    return saved.dataset, f"{saved.arch} trained on {saved.dataset}, {scored}"


def _wrong_fields(saved: Checkpoint) -> list[str]:
    # whether the weights fit the network is build_model's to say
    def is_list(value: object, kind: type) -> bool:
        return isinstance(value, list) and all(isinstance(item, kind) for item in value)

    types = {each.name: each.type for each in fields(Checkpoint) if each.type in (str, dict)}
    right = {name: isinstance(getattr(saved, name), kind) for name, kind in types.items()}
    right |= {
        "state_dict": isinstance(saved.state_dict, dict) and all(isinstance(name, str) for name in saved.state_dict),
        "classes": is_list(saved.classes, str),
        "image_size": isinstance(saved.image_size, int) and 1 <= saved.image_size <= 4096,
        "mean": is_list(saved.mean, float) and len(saved.mean) in (1, 3),
        "std": is_list(saved.std, float),
        "metrics": right["metrics"] and is_list(list(saved.metrics.values()), int | float),
        "glyphs": is_list(saved.glyphs, str),
        "placement": saved.placement in (None, {}) or _is_placement(saved.placement, saved.image_size),
        "fit": saved.fit in FITS,
        "calibration": saved.calibration == {} or _is_calibration(saved.calibration),
        "training": right["training"]
        and all(type(value) is TRAINING.get(name, type(value)) for name, value in saved.training.items()),
    }
    wrong = [name for name, is_right in right.items() if not is_right]
    if not wrong and len(saved.std) != len(saved.mean):
        wrong.append("std")
    if not wrong and len(saved.glyphs) not in (0, len(saved.classes)):
        wrong.append("glyphs")
    return wrong


def _is_placement(found: object, image_size: object) -> bool:
    try:
        box, centre, stroke = Placement(**found)
        return isinstance(box, int) and 1 <= box <= image_size and centre in ("box", "mass") and 0 <= stroke <= box
    except TypeError:
        return False


def _is_calibration(found: object) -> bool:
    def is_number(value: object, least: float = -math.inf) -> bool:
        return isinstance(value, float) and math.isfinite(value) and value >= least

    def is_spread(value: object) -> bool:  # mean, and standard deviation above 0
        return isinstance(value, list) and len(value) == 2 and is_number(value[0]) and is_number(value[1], 1e-30)

    def is_tensor(value: object, dimensions: int) -> bool:
        is_plain = isinstance(value, Tensor) and value.layout is torch.strided and value.dtype is torch.float32
        return is_plain and value.dim() == dimensions and bool(value.isfinite().all())

    if not isinstance(found, dict) or not is_number(found.get("temperature"), 1 / HOTTEST):
        return False
    if found["temperature"] > HOTTEST:
        return False
    if not any(name in found for name in DISTANCE):
        return True
    return (
        is_tensor(found.get("mean"), 1)
        and is_tensor(found.get("directions"), 2)
        and found["directions"].size(1) == len(found["mean"])
        and 1 <= len(found["directions"]) <= len(found["mean"])
        and is_spread(found.get("outside"))
        and is_spread(found.get("highest"))
        and is_number(found.get("threshold"))
    )
