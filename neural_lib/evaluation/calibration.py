"""How sure an answer is: probabilities that mean what they say, and images that are unlike those of training.

Temperature scaling (Guo et al. 2017, On calibration of modern neural networks, arXiv:1706.04599) divides the logits by
one number, fitted on validation images, which leaves the most probable class as it is.

What is unlike every training image is recognised by its features, the inputs of the network's last layer, after Wang et
al. 2022 (ViM: out-of-distribution with virtual-logit matching, arXiv:2203.10807), in two ways: they leave the few
directions in which those of training images vary, and they point to no class, so that the highest logit is low
(Hendrycks et al. 2022, arXiv:1911.11132). Distances compared with this one: tests/README.md.
"""

import logging
import math
from typing import NamedTuple

import torch
from torch import Tensor, nn

from neural_lib.checkpoint import HOTTEST, Checkpoint
from neural_lib.data.images import EVAL_BATCH_SIZE, ImageTensors, Normalisation

MOST_TRAIN, MOST_VAL = 2000, 5000  # images, so that large data sets take no longer: 0.3 s for KMNIST and LeNet
REFUSED = 100  # of so many validation images one is taken for unlike; fewer set no threshold
EXPLAINED = 0.9  # of the features' variance, by the directions that are kept
MOST_DIRECTIONS = 128  # 256 kB of LeNet's features
BINS = 15  # of probabilities, as in Guo et al.

log = logging.getLogger(__name__)


class Outputs(NamedTuple):
    """What a network makes of N images."""

    log_probs: Tensor  # (N, classes)
    logits: Tensor  # (N, classes), of the last layer
    features: Tensor  # (N, F), its inputs


def outputs_of(model: nn.Module, inputs: Tensor) -> Outputs:
    """Run the network, whose last nn.Linear is its last layer, once on normalised images (N, C, H, W)."""
    *_, last_layer = (module for module in model.modules() if isinstance(module, nn.Linear))
    seen = []
    hook = last_layer.register_forward_hook(lambda _, given, logits: seen.append((logits, *given)))
    try:
        log_probs = model(inputs)
    finally:
        hook.remove()
    return Outputs(log_probs, *(each.float() for each in seen[0]))


class Calibration:
    """A network's calibration, from what calibrate returned.

    content: empty for networks without one: then the temperature is 1, and nothing is unlike.
    """

    def __init__(self, content: dict, device: torch.device | str = "cpu") -> None:
        self.temperature = content.get("temperature", 1.0)
        self.threshold = content.get("threshold", math.inf)
        self.has_distance = "threshold" in content
        if self.has_distance:
            self.mean, self.directions = content["mean"].to(device), content["directions"].to(device)
            self.outside, self.highest = content["outside"], content["highest"]

    def probabilities(self, log_probs: Tensor) -> Tensor:
        """The calibrated probability of each class, from log-probabilities, (N, classes)."""
        return at_temperature(log_probs, self.temperature)

    def distances(self, outputs: Outputs) -> Tensor:
        """How far each image is from those of training (N,): the sum of two parts in standard deviations.

        What of the features is outside of the directions, and how low the highest logit is, each compared with the
        validation images. 0 for all where no threshold was set.
        """
        if not self.has_distance:
            return outputs.log_probs.new_zeros(len(outputs.log_probs))
        rest, highest = outside(outputs.features, self.mean, self.directions), outputs.logits.amax(dim=1)
        return (rest - self.outside[0]) / self.outside[1] - (highest - self.highest[0]) / self.highest[1]

    def is_unlike(self, outputs: Outputs) -> Tensor:
        """True (N,) where an image is further from those of training than 99 % of the validation images."""
        return self.distances(outputs) > self.threshold


def at_temperature(log_probs: Tensor, temperature: float) -> Tensor:
    """Probabilities (N, classes) of log-probabilities, sharper below temperature 1 and flatter above."""
    return log_probs.exp() if temperature == 1 else (log_probs / temperature).softmax(dim=1)


def unit(features: Tensor) -> Tensor:
    """Feature vectors (N, F) of length 1; those of nothing but zeros stay."""
    return features / features.norm(dim=1, keepdim=True).clamp(min=1e-12)


def outside(features: Tensor, mean: Tensor, directions: Tensor) -> Tensor:
    """How far each feature vector, made a unit vector, is from where mean and directions lead: (N,), 0 to 2.

    features: (N, F). mean: (F,). directions: (k, F), orthonormal.
    """
    offsets = unit(features) - mean
    inside = (offsets @ directions.T).square().sum(dim=1)  # (N, k) -> (N,)
    return (offsets.square().sum(dim=1) - inside).clamp(min=0).sqrt()


def calibrate(saved: Checkpoint, train: ImageTensors, val: ImageTensors) -> dict:
    """Calibrate a saved network on the images that it was trained and validated on, on their device.

    Returns Checkpoint.calibration: temperature and, if there are enough validation images, mean, directions, outside,
    highest and threshold. A rank can call it alone.
    """
    model, normalise = saved.build_model().to(val.device), Normalisation(saved.mean, saved.std).to(val.device)
    outputs, labels = _run(model, normalise, val, MOST_VAL)
    if not all(each.isfinite().all() for each in outputs):
        log.warning("the network's outputs aren't finite, so its probabilities are not calibrated")
        return {}
    content = {"temperature": fit_temperature(outputs.log_probs, labels)}
    if len(labels) < REFUSED:
        few = f"{len(labels):,} validation image{'s are' if len(labels) > 1 else ' is'} too few"
        log.info("%s to tell which pictures are unlike those of training; that takes %d", few, REFUSED)
        return content
    mean, directions = principal_directions(unit(_run(model, normalise, train, MOST_TRAIN)[0].features))
    rest, highest = outside(outputs.features, mean, directions), outputs.logits.amax(dim=1)
    content |= {"mean": mean, "directions": directions, "outside": _spread(rest), "highest": _spread(highest)}
    distances = Calibration({**content, "threshold": math.inf}).distances(outputs)
    return content | {"threshold": distances.sort(descending=True).values[len(distances) // REFUSED].item()}


def _run(model: nn.Module, normalise: Normalisation, images: ImageTensors, most: int) -> tuple[Outputs, Tensor]:
    # the outputs for at most so many images, spread evenly over all of them, and their labels, on the CPU
    count = min(len(images), most)
    chosen = torch.arange(count) * len(images) // count
    batches, labels = [], []
    with torch.inference_mode():
        for indices in chosen.to(images.device).split(EVAL_BATCH_SIZE):
            batch, truth = images[indices]
            batches.append([each.cpu() for each in outputs_of(model, normalise(batch))])
            labels.append(truth.cpu())
        return Outputs(*map(torch.cat, zip(*batches, strict=True))), torch.cat(labels)


def _spread(values: Tensor) -> list[float]:
    # mean and standard deviation, the latter 1 where nothing varies, so that it can be divided by
    return [values.mean().item(), values.std().item() or 1.0]


def fit_temperature(log_probs: Tensor, labels: Tensor) -> float:
    """The temperature at which the likelihood of the labels (N,) is highest, from log-probabilities (N, classes).

    As if of N + 2 images of each probability one had been right and one wrong (Platt 1999, Probabilistic outputs for
    support vector machines), so that a few images that are all right don't make it 0. From 1 / HOTTEST to HOTTEST.
    """
    logits, count = log_probs.double(), len(labels)
    right, wrong = (count + 1) / (count + 2), 1 / (count + 2) / max(logits.size(1) - 1, 1)
    targets = torch.full_like(logits, wrong).scatter_(1, labels[:, None], right)
    expected = (targets * logits).sum()
    low, high = -math.log(HOTTEST), math.log(HOTTEST)
    for _ in range(32):  # bisection: the loss is convex in 1 / temperature, and its slope there rises
        middle = (low + high) / 2
        slope = expected - ((logits / math.exp(middle)).softmax(dim=1) * logits).sum()
        low, high = (low, middle) if slope > 0 else (middle, high)
    return math.exp((low + high) / 2)


def principal_directions(features: Tensor) -> tuple[Tensor, Tensor]:
    """The mean (F,) of features (N, F), and the fewest orthonormal directions (k, F) that explain EXPLAINED of them.

    At most MOST_DIRECTIONS.
    """
    features = features.double()
    mean = features.mean(dim=0)
    variances, vectors = torch.linalg.eigh((features - mean).T @ (features - mean))  # ascending
    explained = variances.flip(0).clamp(min=0).cumsum(0)
    count = min(int((explained < EXPLAINED * explained[-1]).sum()) + 1, MOST_DIRECTIONS)
    return mean.float(), vectors.flip(1)[:, :count].T.float().contiguous()


def expected_calibration_error(probabilities: Tensor, is_right: Tensor, bins: int = BINS) -> float:
    """How far the probabilities of predictions (N,) are from the share of them that is right (N,), 0 to 1.

    The mean over all predictions of the difference in their bin, of so many equally wide ones (Guo et al. 2017).
    """
    probabilities = probabilities.double()
    bin_of = (probabilities * bins).ceil().long().clamp(1, bins) - 1  # the upper bound belongs to a bin
    differences = torch.zeros(bins, dtype=torch.float64).index_add(0, bin_of, probabilities - is_right.double())
    return differences.abs().sum().item() / len(probabilities)
