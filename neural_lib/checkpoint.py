"""model.pth and checkpoint.pth as files: self-describing, safe to load, protected by a checksum.

They hold only tensors and plain types and are read with weights_only=True, which runs no code from the file
(https://docs.pytorch.org/docs/stable/notes/serialization.html). Each is a zip archive by torch.save. torch.load doesn't
check the archive's CRCs, so the comment at the archive's end holds the sha256 of all bytes before that digest.
"""

import hashlib
import io
import os
import platform
import re
import struct
import textwrap
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from importlib.metadata import version
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn

from neural_lib.config import ARCHS, TORCHVISION_ARCHS, TrainConfig
from neural_lib.data.catalog import DATASETS, DatasetInfo, Placement, Preparation
from neural_lib.networks import build_network
from neural_lib.system.errors import UserError
from neural_lib.system.files import check_input

MARK = b"neural_lib sha256 "  # precedes the 64 hexadecimal digits of the checksum
COMMENT_SIZE = len(MARK) + 64
END = b"PK\x05\x06"  # beginning of a zip archive's last record; its last two bytes are the comment's length
END_SIZE = 22  # bytes of that record without the comment
STATE_FORMAT_NAME = "neural_lib training state"  # the format of checkpoint.pth
IS_STATE = "is the training state, from which train.py --resume resumes; give the network beside it, model.pth"
PICKLED = "holds pickled Python objects, such as torch.save(model) leaves, and loading those can run any code"
OTHER_CODE = "use the code that trained it, or train again"
WEIGHTS_ENTRIES = ("state_dict", "model_state_dict", "model")  # names under which training scripts save weights
WRAPPERS = re.compile(r"^(?:module\.|_orig_mod\.)+")  # in names of weights, by DataParallel and torch.compile

# Loading a network starts OpenMP's threads. A forked child does not have them, and GNU OpenMP would wait for them for
# ever; with one thread it doesn't.
if hasattr(os, "register_at_fork"):  # Windows has no fork
    os.register_at_fork(after_in_child=lambda: torch.set_num_threads(1))


class FileFormat(NamedTuple):
    """A file format: its name and versions, and the advice in error messages."""

    name: str  # value of "format" in the file
    version: int  # version of new files
    readable: tuple[int, ...]  # versions that can be read
    noun: str  # name of the format in messages
    option: str  # option that gives the path, such as "--model"; "" if no option does
    if_missing: str  # advice if there is no such file
    if_damaged: str  # advice if the file is damaged
    without_checksum: tuple[int, ...] = ()  # versions older than the checksum


MODEL_FORMAT = FileFormat(
    name="neural_lib checkpoint",
    version=2,
    readable=(1, 2),
    noun="model file",
    option="--model",
    if_missing="train a network first, with train.py",
    if_damaged="give a file that train.py wrote",
    without_checksum=(1,),
)


def archive_bytes(content: Mapping[str, object], kind: FileFormat) -> bytearray:
    """Serialise tensors and plain types to the bytes of a file, with its format and checksum."""
    file = io.BytesIO()
    torch.save({"format": kind.name, "format_version": kind.version, **content}, file)
    archive = bytearray(file.getbuffer())
    assert archive[-END_SIZE:].startswith(END), "torch.save's archive doesn't end as expected"
    archive[-2:] = struct.pack("<H", COMMENT_SIZE)
    archive += MARK
    archive += hashlib.sha256(archive).hexdigest().encode()
    return archive


def load_archive(path: str | Path, kind: FileFormat) -> dict:
    """Read a file that archive_bytes made, its tensors on the CPU, without running any code in it.

    Raises UserError, naming the file, if it is missing or damaged, or has another format or version.
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
        with warnings.catch_warnings(action="ignore"):  # torch warns of foreign files, which are refused below
            content = torch.load(io.BytesIO(archive), map_location="cpu", weights_only=True)
    except Exception as error:  # torch.load raises many kinds of errors for a foreign file
        if "GLOBAL" in str(error):  # the pickle instruction to import a class or function
            raise refusal(PICKLED) from None
        raise refusal(f"is damaged, cut short or no {kind.noun} at all") from None
    if isinstance(content, dict) and kind.name == MODEL_FORMAT.name and content.get("format") == STATE_FORMAT_NAME:
        raise UserError(f"{name}: {IS_STATE}")
    values = [*content.values()] if isinstance(content, Mapping) else []
    if kind.name == MODEL_FORMAT.name and values and all(isinstance(each, Tensor) for each in values):
        raise UserError(f"{name}: holds weights alone, no classes; train.py --init {path} begins from them")
    if not isinstance(content, dict) or content.get("format") != kind.name:
        raise UserError(f"{name}: holds data, but is no {kind.noun} of train.py; {kind.if_missing}")
    file_version = content.get("format_version")
    if not isinstance(file_version, int) or file_version not in kind.readable:
        raise UserError(
            f"{name}: has {kind.noun} format {file_version}, and this version reads format "
            f"{' and '.join(map(str, kind.readable))}; use the version of the project that wrote it, or "
            f"{kind.if_damaged}"
        )
    if not has_checksum and file_version not in kind.without_checksum:
        raise refusal("is damaged or was changed: it lacks its checksum")
    return content


def versions() -> dict[str, str]:
    """The versions of Python, torch and torchvision, which are stored in each file."""
    # torch.__version__ names the build too, such as 2.15.0+cpu; the package's metadata doesn't
    return {"python": platform.python_version(), "torch": str(torch.__version__), "torchvision": version("torchvision")}


@dataclass(frozen=True)
class Checkpoint:
    """The content of model.pth: a trained network and all that is needed to use it.

    Keys of `training`, each optional: command (its line), started (time, ISO 8601), device (devices.describe),
    processes (their number), data (folder of the data sets), val_images and test_images (their numbers), init and
    init_sha256 (the model file with the initial weights). Of user images: parts (those given, of train, val and test),
    fingerprint (sha256 of the images for training and validation), val_fingerprint (sha256 of the validation images, if
    val was given), test_seed (which drew the images held out for test).
    """

    arch: str  # a name in config.ARCHS or TORCHVISION_ARCHS
    arch_args: dict  # arguments that the network was built with
    state_dict: dict[str, Tensor]
    dataset: str  # a name in catalog.DATASETS, or the path of user images
    classes: list[str]  # names, in the order of the labels
    image_size: int  # height and width, pixels
    mean: list[float]  # of each channel, pixels scaled to 0..1
    std: list[float]  # of each channel, pixels scaled to 0..1
    config: dict  # TrainConfig.to_dict()
    metrics: dict[str, int | float]  # figures of the saved epoch: epoch, train_*, val_* and, after the test, test_*
    glyphs: list[str] = field(default_factory=list)  # written character of each class; empty if classes have none
    versions: dict = field(default_factory=versions)
    training: dict = field(default_factory=dict)  # how it was trained; see above
    placement: dict | None = None  # fields of catalog.Placement; {} for photos, None in older files
    fit: str = "crop"  # how photos become square: one of config.FITS
    calibration: dict = field(default_factory=dict)  # result of evaluation.calibration.calibrate; {} in older files

    @property
    def preparation(self) -> Preparation:
        """The settings by which a picture becomes an image for this network."""
        placement = Placement(**self.placement) if self.placement else None
        return Preparation(self.image_size, len(self.mean), placement, self.fit)

    @property
    def labels(self) -> dict[str, int]:
        """The label of each class, by its name and by its written character."""
        return {name: label for names in (self.glyphs, self.classes) for label, name in enumerate(names)}

    @property
    def is_of_writing(self) -> bool:
        """True if the network reads strokes, such as handwriting; False if it knows photos or other things."""
        return self.preparation.placement is not None and self.preparation.placement.is_written

    @property
    def taken_for(self) -> str:
        """The words between the true class and the network's answer: "read as" if it reads, else "taken for"."""
        return "read as" if self.is_of_writing else "taken for"

    def display_name(self, label: int) -> str:
        """The class name for pictures, followed by the written character if the class has one: "su す"."""
        return f"{self.classes[label]} {self.glyphs[label]}" if self.glyphs else self.classes[label]

    def to_bytes(self) -> bytearray:
        """Serialise the checkpoint to the bytes of a model file."""
        return archive_bytes(vars(self), MODEL_FORMAT)

    def without_tensors(self) -> "Checkpoint":
        """The same checkpoint without weights and calibration."""
        return replace(self, state_dict={}, calibration={})

    def build_model(self) -> nn.Module:
        """Build the trained network, on the CPU and in evaluation mode.

        It is run on one image. Raises UserError if this version has no such network, or another one of that name, or
        image size or classes don't fit it.
        """
        if self.arch not in ARCHS and self.arch not in TORCHVISION_ARCHS:
            raise UserError(f"there is no network {self.arch!r} in this version; {OTHER_CODE}")
        try:
            model = build_network(self.arch, **self.arch_args)
            model.load_state_dict(self.state_dict)
        except (AttributeError, TypeError, RuntimeError) as error:  # arguments, or names and shapes of weights
            why = textwrap.shorten(str(error), 200)
            raise UserError(
                f"the code of network {self.arch!r} isn't the code that was trained: {why}; {OTHER_CODE}"
            ) from None
        try:
            with torch.inference_mode():
                outputs = model.eval()(torch.zeros(1, len(self.mean), self.image_size, self.image_size)).size(1)
            if outputs != len(self.classes):
                raise ValueError(f"the network has {outputs} outputs, and {len(self.classes)} classes are named")
        except (LookupError, TypeError, ValueError, RuntimeError) as error:
            raise UserError(
                f"the model file doesn't fit together: network {self.arch!r} {self.arch_args}, "
                f"{textwrap.shorten(str(error), 200)}; train it again"
            ) from None
        return model


def without_weights(
    config: TrainConfig, info: DatasetInfo, arch_args: dict, statistics: tuple[list[float], list[float]], training: dict
) -> Checkpoint:
    """The checkpoint of a run before its first epoch; dataclasses.replace adds weights and metrics.

    statistics: mean and standard deviation of each channel, pixels scaled to 0..1. training: see Checkpoint.
    """
    mean, std = statistics
    return Checkpoint(
        arch=config.arch, arch_args=arch_args, state_dict={}, dataset=config.dataset, classes=list(info.classes),
        image_size=info.image_size, mean=mean, std=std, config=config.to_dict(), metrics={}, glyphs=list(info.glyphs),
        training=training, placement=info.placement._asdict() if info.placement else {}, fit=info.fit,
    )  # fmt: skip


def load(path: str | Path, option: str = "--model") -> Checkpoint:
    """Read a model file without running any code in it; the tensors are on the CPU.

    option: the option that gave the path, "" if none did. Raises UserError, naming option and path, if the file is
    missing, damaged, incomplete or no model file.
    """
    name = f"{option} {path}".strip()
    content = load_archive(path, MODEL_FORMAT._replace(option=option))
    try:
        saved = Checkpoint(**{each.name: content[each.name] for each in fields(Checkpoint) if each.name in content})
    except TypeError:  # a field without a default is missing
        raise UserError(f"{name}: is an incomplete model file; train the network again") from None
    if saved.placement is None:  # older files hold none, so it is the data set's
        placement = DATASETS[saved.dataset].placement if saved.dataset in DATASETS else None
        saved = replace(saved, placement=placement._asdict() if placement else {})
    return saved


def load_tensors(path: str | Path, if_damaged: str, option: str = "") -> dict[str, Tensor]:
    """Read a file of tensors by name that another program saved with torch, without running any code in it.

    The tensors may be in an entry of the file, and have the prefixes that torch's wrappers of modules add. option:
    that gave the path, if any. if_damaged: advice in the UserError that is raised if the file can't be read or holds no
    such tensors.
    """
    name = f"{option} {path}".strip()
    try:
        with warnings.catch_warnings(action="ignore"):
            content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch.load raises many kinds of errors
        why = PICKLED if "GLOBAL" in str(error) else f"can't be read ({textwrap.shorten(str(error), 100)})"
        raise UserError(f"{name}: {why}; {if_damaged}") from None
    for entry in WEIGHTS_ENTRIES:
        if isinstance(content, Mapping) and isinstance(content.get(entry), Mapping):
            content = content[entry]
    named = content.items() if isinstance(content, Mapping) else ()
    tensors = {WRAPPERS.sub("", str(name)): value for name, value in named if isinstance(value, Tensor)}
    if not tensors:
        raise UserError(f"{name}: holds no tensors by name; {if_damaged}")
    return tensors


def describe(path: Path) -> tuple[str, str]:
    """The data set of the network in a model file, and a phrase: "lenet trained on digits, test accuracy 0.9798".

    Both are "" if the file is missing. If it can't be read, the data set is "unknown".
    """
    if not path.exists():
        return "", ""
    try:
        saved = load(path)
    except UserError:
        return "unknown", "a damaged model file"
    accuracy = saved.metrics.get("test_accuracy")
    scored = "not scored on its test set" if accuracy is None else f"test accuracy {accuracy:.4f}"
    return saved.dataset, f"{saved.arch} trained on {saved.dataset}, {scored}"
