"""Calibrated probabilities, and the detection of images unlike the training images (out of distribution).

Temperature scaling (Guo et al. 2017, On calibration of modern neural networks, arXiv:1706.04599) divides the logits by
one number, fitted on validation images. It doesn't change which class is the most probable. On few images it can be
worse than none, so it is taken only if, in cross-validation, it lowers the loss of images that it wasn't fitted to.

Unlike images are detected by their features, the inputs of the network's last layer, after Wang et al. 2022 (ViM:
out-of-distribution with virtual-logit matching, arXiv:2203.10807), in two ways: the features lie outside of the few
directions in which the training images' features vary, and the highest logit is low (Hendrycks et al. 2022,
arXiv:1911.11132). tests/README.md compares this distance with others.
"""

import logging
import math
from collections.abc import Iterable, Iterator
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from neural_lib.checkpoint import Checkpoint
from neural_lib.data.images import ImageTensors, Normalisation, eval_batch_size
from neural_lib.networks import forward_hooks, last_layer_of

MAX_TRAIN, MAX_VAL = 2000, 5000  # number of images used, so that calibration doesn't take longer with large data sets
REFUSED = 100  # one of this number of validation images counts as unlike
MIN_VAL_IMAGES = 20  # validation images; with fewer there is no threshold
DEVIATIONS = 3  # of the distances of fewer than REFUSED validation images, from their mean to the threshold
EXPLAINED = 0.9  # share of the features' variance in the kept directions; 95 % was no better (tests/README.md)
MAX_DIRECTIONS = 128  # 256 kB for LeNet's 500 features
MAX_TEMPERATURE = 20.0  # the lowest is 1 / MAX_TEMPERATURE
PRIOR = 10  # validation images that the network's own probabilities count as much as
FOLDS = 10  # parts of the validation images, for cross-validation
BINS = 15  # of probabilities, as in Guo et al.

log = logging.getLogger(__name__)


class Outputs(NamedTuple):
    """A network's outputs for N images, with those of its last layer."""

    log_probs: Tensor  # (N, classes)
    logits: Tensor  # (N, classes), outputs of the last layer
    features: Tensor  # (N, F), inputs of the last layer


def outputs_of(model: nn.Module, inputs: Tensor) -> Outputs:
    """Run a network on normalised images (N, C, H, W). Its last layer must be its last nn.Linear."""
    calls = []
    with forward_hooks([last_layer_of(model)], lambda layer, inputs, logits: calls.append((logits, *inputs))):
        log_probs = model(inputs)
    return Outputs(log_probs, *(each.float() for each in calls[0]))


class Calibration:
    """A network's calibration, ready for use on a device.

    content: the result of calibrate. If it is empty, the temperature is 1, and no image is unlike.
    """

    def __init__(self, content: dict, device: torch.device | str = "cpu") -> None:
        self.temperature = content.get("temperature", 1.0)
        self.threshold = content.get("threshold", math.inf)
        self.has_distance = "threshold" in content
        if self.has_distance:
            self.mean, self.directions = content["mean"].to(device), content["directions"].to(device)
            self.outside, self.highest = content["outside"], content["highest"]

    def probabilities(self, log_probs: Tensor) -> Tensor:
        """Calibrated probabilities (N, classes) from log-probabilities (N, classes)."""
        return at_temperature(log_probs, self.temperature)

    def distances(self, outputs: Outputs) -> Tensor:
        """The distance (N,) of each image from the training images; 0 if there is no threshold.

        The sum of two parts, each in standard deviations from the mean of the validation images: the length of the
        features outside of the directions, and the negative highest logit.
        """
        if not self.has_distance:
            return outputs.log_probs.new_zeros(len(outputs.log_probs))
        rest, highest = outside(outputs.features, self.mean, self.directions), outputs.logits.amax(dim=1)
        return (rest - self.outside[0]) / self.outside[1] - (highest - self.highest[0]) / self.highest[1]

    def is_unlike(self, outputs: Outputs) -> Tensor:
        """True (N,) for each image further from the training images than the threshold, which calibrate sets."""
        return self.distances(outputs) > self.threshold


def at_temperature(log_probs: Tensor, temperature: float) -> Tensor:
    """Probabilities (N, classes) of log-probabilities, sharper below temperature 1 and flatter above."""
    return log_probs.exp() if temperature == 1 else (log_probs / temperature).softmax(dim=1)


def outside(features: Tensor, mean: Tensor, directions: Tensor) -> Tensor:
    """The distance (N,), 0 to 2, of each unit feature vector from the subspace through the mean along the directions.

    features: (N, F), which are scaled to length 1. mean: (F,). directions: (k, F), orthonormal.
    """
    offsets = functional.normalize(features) - mean
    inside = (offsets @ directions.T).square().sum(dim=1)  # (N, k) -> (N,)
    return (offsets.square().sum(dim=1) - inside).clamp(min=0).sqrt()


def calibrate(saved: Checkpoint, train: ImageTensors, val: ImageTensors) -> dict:
    """Calibrate a saved network on its training and validation images, on their device.

    Returns the value of Checkpoint.calibration: temperature, which is 1 if no other lowers the loss, and, if there are
    enough validation images, mean (F,), directions (k, F), outside and highest (mean and standard deviation each), and
    threshold, a distance that one of REFUSED validation images exceeds. If there are fewer, the furthest one alone
    would set it, which may be a stray picture; so the threshold is DEVIATIONS from the mean, and the highest logit
    counts half (its standard deviation is doubled), because it varies most among a few images. Empty if the network's
    outputs aren't finite. One rank can call it without the others.
    """
    model, normalise = saved.build_model().to(val.device), Normalisation(saved.mean, saved.std).to(val.device)
    val, train = val.evenly(MAX_VAL), train.evenly(MAX_TRAIN)
    outputs, labels = _joined(run_on(model, normalise, val)), val.labels.cpu()
    if not all(each.isfinite().all() for each in outputs):
        log.warning("the network's outputs aren't finite, so its probabilities are not calibrated")
        return {}
    is_useful = temperature_lowers_loss(outputs.log_probs, labels)
    content = {"temperature": fit_temperature(outputs.log_probs, labels) if is_useful else 1.0}
    if len(labels) < MIN_VAL_IMAGES:
        text = "pictures unlike the training images can't be marked ?: that needs %d validation images, there %s %d"
        log.info(text, MIN_VAL_IMAGES, "is" if len(labels) == 1 else "are", len(labels))
        return content
    mean, directions = principal_directions(functional.normalize(_joined(run_on(model, normalise, train)).features))
    rest, highest = outside(outputs.features, mean, directions), outputs.logits.amax(dim=1)
    content |= {"mean": mean, "directions": directions, "outside": _spread(rest), "highest": _spread(highest)}
    if len(labels) < REFUSED:
        content["highest"][1] *= 2
    distances = Calibration(content | {"threshold": math.inf}).distances(outputs)
    if len(labels) < REFUSED:
        return content | {"threshold": (distances.mean() + DEVIATIONS * distances.std()).item()}
    return content | {"threshold": distances.sort(descending=True).values[len(distances) // REFUSED].item()}


def run_on(model: nn.Module, normalise: Normalisation, images: ImageTensors) -> Iterator[Outputs]:
    """The outputs of a network in evaluation mode for each batch of images."""
    size = eval_batch_size(images.image_size, images.device)
    for first in range(0, len(images), size):
        with torch.inference_mode():
            outputs = outputs_of(model, normalise(images[first : first + size][0]))
        yield outputs


def _joined(batches: Iterable[Outputs]) -> Outputs:
    # On the CPU.
    return Outputs(*(torch.cat(each).cpu() for each in zip(*batches, strict=True)))


def _spread(values: Tensor) -> list[float]:
    # Mean and standard deviation; the latter is 1 instead of 0, so that it can be divided by.
    return [values.mean().item(), values.std().item() or 1.0]


def fit_temperature(log_probs: Tensor, labels: Tensor) -> float:
    """The temperature at which the labels are most likely, as a maximum a posteriori estimate.

    log_probs: (N, classes). labels: (N,). The prior is that the network is right: PRIOR more images, labelled with its
    own probabilities, pull the temperature to 1, so that a few images that are all right don't make it 0.
    """
    logits, count = log_probs.double(), len(labels)
    targets = functional.one_hot(labels, logits.size(1)) * count + PRIOR * logits.exp()
    expected = (targets * logits).sum() / (count + PRIOR)
    low, high = -math.log(MAX_TEMPERATURE), math.log(MAX_TEMPERATURE)
    for _ in range(32):  # bisection: the loss is convex in 1 / temperature, and its slope there rises
        middle = (low + high) / 2
        slope = expected - ((logits / math.exp(middle)).softmax(dim=1) * logits).sum()
        low, high = (low, middle) if slope > 0 else (middle, high)
    return math.exp((low + high) / 2)


def temperature_lowers_loss(log_probs: Tensor, labels: Tensor) -> bool:
    """True if a temperature lowers the loss in cross-validation: of each of FOLDS parts, fitted to all other images.

    log_probs: (N, classes). labels: (N,). The loss is summed over the parts. False for a single image.
    """
    count = len(labels)
    fold_of = torch.arange(count) % FOLDS  # images in the order of their classes are spread over the parts
    change = 0.0  # of the loss, summed over the images
    for fold in range(min(count, FOLDS) if count > 1 else 0):
        own, others = fold_of == fold, fold_of != fold
        logits = log_probs[own].double()
        at_best = (logits / fit_temperature(log_probs[others], labels[others])).log_softmax(dim=1)
        change += functional.nll_loss(at_best, labels[own], reduction="sum")
        change -= functional.nll_loss(logits, labels[own], reduction="sum")
    return bool(change < 0)


def principal_directions(features: Tensor) -> tuple[Tensor, Tensor]:
    """The mean (F,) of features (N, F), and the directions (k, F) in which they vary most, orthonormal.

    k is the smallest number of principal components with a share of EXPLAINED of the variance, at most MAX_DIRECTIONS.
    """
    features = features.double()
    mean = features.mean(dim=0)
    variances, vectors = torch.linalg.eigh((features - mean).T @ (features - mean))  # ascending
    explained = variances.flip(0).clamp(min=0).cumsum(0)
    count = min(int((explained < EXPLAINED * explained[-1]).sum()) + 1, MAX_DIRECTIONS)
    return mean.float(), vectors.flip(1)[:, :count].T.float().contiguous()


def expected_calibration_error(probabilities: Tensor, is_right: Tensor, bins: int = BINS) -> float:
    """The expected calibration error (Guo et al. 2017), 0 to 1.

    The mean difference, over all predictions, between the mean probability in a prediction's bin and the share of the
    bin that is right. Bins have equal widths. probabilities: (N,), of the predicted classes. is_right: (N,).
    """
    probabilities = probabilities.double()
    bin_of = (probabilities * bins).ceil().long().clamp(1, bins) - 1  # a bin includes its upper bound
    differences = torch.zeros(bins, dtype=torch.float64).index_add(0, bin_of, probabilities - is_right.double())
    return differences.abs().sum().item() / len(probabilities)
