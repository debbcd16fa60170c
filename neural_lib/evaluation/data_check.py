"""What a data set's images show beside a network that was trained on them.

These are labels worth a second look, near-copies in several parts, and training images as the network got them.
"""

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import nn

from neural_lib.checkpoint import Checkpoint
from neural_lib.config import IMAGENET, TrainConfig
from neural_lib.data.augment import RandomDistortion
from neural_lib.data.catalog import DATASETS
from neural_lib.data.images import ImageTensors, Normalisation, Parts
from neural_lib.evaluation.calibration import run_on
from neural_lib.evaluation.copies import Copy, find_copies
from neural_lib.evaluation.label_check import Suspect, cross_validated, find_suspects
from neural_lib.networks import forward_hooks
from neural_lib.pretrained import copy_weights, load_imagenet
from neural_lib.system.errors import RunError, UserError

LABELLED = ("training", "validation")  # the parts whose labels are checked
SAMPLES = 16  # training images that are shown
# Floating-point operations of the features that are compared: enough for 70,000 images of 28x28 pixels through LeNet,
# and for 2,000 photos of 224x224 through EfficientNet-Lite0, which take one CPU core about 35 s.
MAX_OPERATIONS = 1.6e12
MAX_IMAGES = 100_000  # compared: so many of each part with each other

log = logging.getLogger(__name__)


class Place(NamedTuple):
    """An image of a DataCheck."""

    part: str  # "training", "validation" or "test"
    index: int  # in DataCheck.parts[part]


@dataclass(frozen=True, eq=False)
class DataCheck:
    """The images of a data set that deserve a look."""

    parts: Mapping[str, ImageTensors]  # the compared images of "training", "validation" and "test"
    total: int  # images of all parts; more than were compared if these are a share
    checked: int  # images whose labels were checked; fewer than training and validation images if nothing can be said
    # Training and validation images for which another class is more probable than their label, in cross-validation; the
    # least probable label, compared with that class, first.
    doubtful: list[tuple[Place, Suspect]]
    suspects: int  # images at the beginning of `doubtful` that are worth a second look
    copies: list[Copy]  # near-copies in two parts
    samples: ImageTensors  # some training images as the network got them, ordered by class
    is_distorted: bool  # True if these are distorted


def check_data(saved: Checkpoint, model: nn.Module, given: Parts) -> DataCheck:
    """Compare the images that a saved network was trained, validated and tested on, by their features.

    model: the network, on the images' device. given: with the images that were trained on. Of many images, an equal
    share of each part is compared.
    """
    config = TrainConfig(**saved.config)
    train, val = given.split(config, by_class=saved.dataset not in DATASETS)
    parts = {"training": train, "validation": val, "test": given.test}
    total = sum(map(len, parts.values()))
    normalise, model = Normalisation(saved.mean, saved.std).to(train.device), _before_training(saved, model)
    affordable = min(MAX_IMAGES, MAX_OPERATIONS / _operations(model, normalise(train[:1][0])))
    share = min(1.0, affordable / total)
    parts = {part: images.evenly(round(share * len(images)) or 1) for part, images in parts.items()}
    compared = {part: features_and_answers(model, normalise, images) for part, images in parts.items()}
    labels = torch.cat([parts[part].labels.cpu() for part in LABELLED])
    probabilities = cross_validated(torch.cat([compared[part][0] for part in LABELLED]), labels, len(saved.classes))
    places = [Place(part, index) for part in LABELLED for index in range(len(parts[part]))]
    is_distorted = bool(config.epochs and config.distorts())
    return DataCheck(
        parts=parts,
        total=total,
        checked=int(probabilities.isfinite().all(dim=1).sum()),
        doubtful=[
            (place := places[each.index], each._replace(index=place.index))
            for each in find_suspects(probabilities, labels, ratio=1)
        ],
        suspects=len(find_suspects(probabilities, labels)),
        copies=find_copies(
            {part: (compared[part][0], images.on_cpu()) for part, images in parts.items()},
            {part: answers for part, (_, answers) in compared.items()},
        ),
        samples=_samples(train, config, is_distorted),
        is_distorted=is_distorted,
    )


def _before_training(saved: Checkpoint, model: nn.Module) -> nn.Module:
    # The network with ImageNet's weights if it was trained further from these: it hasn't learned wrong labels by heart.
    if saved.training.get("init") != IMAGENET or not saved.metrics.get("epoch"):
        return model
    try:
        init = load_imagenet(saved.arch)
    except (RunError, UserError) as error:
        log.warning("%s; so the trained network judges the labels, and may know wrong ones by heart", error)
        return model
    untrained = saved.build_model()
    copy_weights(untrained, init, saved.classes)
    return untrained.to(next(model.parameters()).device)


def features_and_answers(
    model: nn.Module, normalise: Normalisation, images: ImageTensors
) -> tuple[torch.Tensor, torch.Tensor]:
    """The features (N, F), inputs of the last layer, and the most probable class (N,) of each image, on the CPU."""
    batches = [
        (outputs.features.cpu(), outputs.log_probs.argmax(dim=1).cpu()) for outputs in run_on(model, normalise, images)
    ]
    return tuple(map(torch.cat, zip(*batches, strict=True)))


def _operations(model: nn.Module, image: torch.Tensor) -> int:
    # Floating-point operations of the convolutions and linear layers, which are nearly all but for attention, for an
    # image (1, C, H, W), normalised. torch's FlopCounterMode takes a second to import what it needs.
    counts = []

    def count(layer: nn.Module, _: tuple, output: torch.Tensor) -> None:
        counts.append(2 * layer.weight.numel() * (output.numel() // len(layer.weight)))

    layers = [each for each in model.modules() if isinstance(each, nn.Conv2d | nn.Linear)]
    with forward_hooks(layers, count), torch.inference_mode():
        model(image)
    return sum(counts)


def _samples(train: ImageTensors, config: TrainConfig, is_distorted: bool) -> ImageTensors:
    # SAMPLES training images, as many of each class as there is room for, drawn by the seed, and distorted by it.
    order = torch.randperm(len(train), generator=torch.Generator().manual_seed(config.seed))
    labels = train.labels.cpu()[order]
    by_class = labels.argsort(stable=True)
    counts = torch.bincount(labels)
    number = torch.empty_like(by_class)  # of each image among those of its class
    number[by_class] = torch.arange(len(labels)) - (counts.cumsum(0) - counts)[labels[by_class]]
    chosen = number.argsort(stable=True)[:SAMPLES]
    chosen = train.subset(order[chosen[labels[chosen].argsort(stable=True)]])
    images = chosen.on_cpu()[:]
    if is_distorted:
        images = RandomDistortion(config, train.image_size)(images).round().clamp(0, 255).to(torch.uint8)
    names = [chosen.name(index) for index in range(len(chosen))]
    return ImageTensors(images, chosen.labels.cpu(), names=names)
