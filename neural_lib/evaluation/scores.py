"""evaluate: a network's scores on a set of images; and the sums, counts and figures that scores are made of."""

import math
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from neural_lib.checkpoint import Checkpoint
from neural_lib.data.images import ImageTensors, Normalisation, evaluation_loader
from neural_lib.evaluation.calibration import at_temperature
from neural_lib.system.devices import autocast
from neural_lib.system.distributed import PADDING, any_rank, gather_rows
from neural_lib.system.signals import GracefulStop


class Scores(NamedTuple):
    """The results of evaluate; labels, predictions and probabilities are in the loader's order, on the CPU."""

    loss: float  # mean negative log-likelihood per image, nats
    accuracy: float  # 0 to 1
    f1: float  # macro: the mean over all classes, 0 to 1
    labels: Tensor  # (N,) true classes
    predictions: Tensor  # (N,) most probable classes
    probabilities: Tensor  # (N,) theirs, 0 to 1, calibrated if a temperature was given
    uncalibrated: Tensor | None = None  # (N,) then the same as the network itself gives them


@torch.no_grad()  # with inference_mode autocast would convert each weight again for each batch
def evaluate(
    model: nn.Module,
    loader: Iterable[tuple[Tensor, Tensor]],
    precision: str = "fp32",
    stop: GracefulStop | None = None,
    temperature: float | None = None,
) -> Scores:
    """Score the model on every image of a loader, in evaluation mode.

    loader yields images (N, C, H, W) and labels (N,) on the model's device; of several ranks each gives its shards, and
    each gets the scores on all images. stop: checked before each batch. Raises Stopped there. temperature: that
    probabilities are calibrated with; it changes neither loss nor predictions.
    """
    model.eval()
    batches = []
    with autocast(next(model.parameters()).device, precision):
        for images, labels in loader:
            if stop:
                stop.check(any_rank(stop.signum))
            log_probs = model(images)
            highest, predictions = log_probs.max(dim=1)
            losses = functional.nll_loss(log_probs, labels, reduction="none")
            highest = highest.exp()
            calibrated = highest if temperature is None else at_temperature(log_probs, temperature).amax(dim=1)
            batches.append((labels, predictions, calibrated, highest, losses))
    columns = [
        torch.cat(column).cpu().double() for column in zip(*batches, strict=True)
    ]  # classes are exact in it, too
    rows = torch.stack(columns, dim=1)  # 5 of (n,) -> (n, 5)
    labels, predictions, calibrated, highest, losses = gather_rows(rows[rows[:, 0] != PADDING]).unbind(dim=1)
    labels, predictions = labels.long(), predictions.long()  # (N,), as all five are
    uncalibrated = None if temperature is None else highest.float()
    accuracy = (labels == predictions).double().mean().item()
    f1 = macro_f1(confusion_matrix(labels, predictions, classes=log_probs.size(1)))
    return Scores(losses.mean().item(), accuracy, f1, labels, predictions, calibrated.float(), uncalibrated)


def score(saved: Checkpoint, model: nn.Module, images: ImageTensors) -> Scores:
    """A saved network's scores on all images, its probabilities calibrated; every rank must call it.

    In float32 and fixed batches, so that train.py and predict.py get identical figures.
    """
    normalise = Normalisation(saved.mean, saved.std).to(images.device)
    temperature = saved.calibration.get("temperature")
    return evaluate(model, evaluation_loader(images, normalise), temperature=temperature)


def as_float64(value: Tensor) -> Tensor:
    """The tensor in float64, or in float32 on devices that may lack that, such as MPS."""
    return value.to(torch.float64 if value.device.type in ("cpu", "cuda") else torch.float32)


def batch_sums(loss_sum: Tensor, log_probs: Tensor, labels: Tensor, signalled: bool = False) -> Tensor:
    """The sums that the ranks add up after a step (3,): loss, right predictions, ranks that have received a signal.

    loss_sum: () over this rank's images, whose log-probabilities are (N, classes) and true classes (N,).
    """
    correct = as_float64((log_probs.argmax(dim=1) == labels).sum())
    return torch.stack([as_float64(loss_sum.detach()), correct, torch.full_like(correct, signalled)])


class RunningScores:
    """Loss and accuracy over the images seen so far, summed where the images are.

    Adding queues work on the device and waits for nothing; the properties read the sums back and so wait.
    """

    def __init__(self) -> None:
        self.count = 0  # images
        self.loss_sum: Tensor | float = 0.0
        self.correct: Tensor | float = 0.0

    def add(self, sums: Tensor, count: int) -> None:
        """Add batch_sums of a batch of `count` images."""
        self.count += count
        self.loss_sum = self.loss_sum + sums[0]
        self.correct = self.correct + sums[1]

    def state_dict(self) -> dict:
        """The count and the sums, as plain numbers; waits for the device."""
        return {"count": self.count, "loss_sum": float(self.loss_sum), "correct": float(self.correct)}

    def load_state_dict(self, state: dict) -> None:
        """Go on from what state_dict gave."""
        self.count, self.loss_sum, self.correct = state["count"], state["loss_sum"], state["correct"]

    @property
    def loss(self) -> float:
        """Mean loss per image, in nats; NaN where there was none."""
        return float(self.loss_sum) / self.count if self.count else math.nan

    @property
    def accuracy(self) -> float:
        """Share of the images whose most probable class is the true one, 0 to 1; NaN where there was none."""
        return float(self.correct) / self.count if self.count else math.nan


def confusion_matrix(labels: Tensor, predictions: Tensor, classes: int) -> Tensor:
    """How many images of each true class (rows) were predicted as which class (columns): (classes, classes), int64."""
    return torch.bincount(labels * classes + predictions, minlength=classes**2).view(classes, classes)


def macro_f1(matrix: Tensor) -> float:
    """The mean of the classes' F1, 0 to 1, from a confusion matrix of counts (true, predicted).

    F1 is 2 TP / (2 TP + FP + FN), the harmonic mean of precision and recall; 0 for a class that neither occurs nor is
    predicted, as in the report.
    """
    true_or_predicted = matrix.sum(dim=0) + matrix.sum(dim=1)
    return (2 * matrix.diagonal().double() / true_or_predicted.clamp(min=1)).mean().item()


def standard_error(accuracy: float, count: int) -> float:
    """Standard error of an accuracy (0 to 1) on `count` images: that of a binomial proportion.

    With one more image right and one more wrong (Laplace's rule), so that it isn't 0 if all are right.
    """
    accuracy = (accuracy * count + 1) / (count + 2)
    return math.sqrt(accuracy * (1 - accuracy) / count)


def confusions(matrix: Sequence[Sequence[int]]) -> list[dict[str, int]]:
    """Pairs of classes that were confused, the most frequent first: {"truth", "predicted", "count", "support"}.

    matrix: counts (true, predicted). support: images of the true class.
    """
    pairs = [
        {"truth": truth, "predicted": predicted, "count": count, "support": sum(row)}
        for truth, row in enumerate(matrix)
        for predicted, count in enumerate(row)
        if count and predicted != truth
    ]
    return sorted(pairs, key=lambda pair: -pair["count"])


def most_confident_mistakes(labels: Tensor, predictions: Tensor, probabilities: Tensor, most: int) -> list[int]:
    """The indices of at most so many wrong predictions, the most confident first; each tensor is (N,)."""
    wrong = (predictions != labels).nonzero().flatten()
    order = probabilities[wrong].sort(descending=True, stable=True).indices
    return wrong[order[:most]].tolist()
