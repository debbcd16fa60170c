"""Scores of a network on images: loss, accuracy, macro F1, confusions, and running sums for training."""

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
    """The result of evaluate; tensors are on the CPU, in the loader's order."""

    loss: float  # mean negative log-likelihood per image, nats
    accuracy: float  # 0 to 1
    f1: float  # macro F1: the mean over all classes, 0 to 1
    labels: Tensor  # (N,) true classes
    predictions: Tensor  # (N,) most probable classes
    probabilities: Tensor  # (N,) probabilities of the predictions, 0 to 1, calibrated if a temperature was given
    uncalibrated: Tensor | None = None  # (N,) the same before calibration; None if no temperature was given


@torch.no_grad()  # not inference_mode, in which autocast would convert all weights again for each batch
def evaluate(
    model: nn.Module,
    loader: Iterable[tuple[Tensor, Tensor]],
    precision: str = "fp32",
    stop: GracefulStop | None = None,
    temperature: float | None = None,
) -> Scores:
    """Score the model on every image of a loader, in evaluation mode.

    loader yields images (N, C, H, W) and labels (N,) on the model's device. Each rank scores its shards and gets the
    scores on all images. stop: checked before each batch, raises Stopped after a signal. temperature: calibrates the
    probabilities; it changes neither loss nor predictions.
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
    columns = [torch.cat(column).cpu().double() for column in zip(*batches, strict=True)]
    rows = torch.stack(columns, dim=1)  # 5 columns (n,) -> (n, 5); labels are exact in float64
    columns = gather_rows(rows[rows[:, 0] != PADDING]).unbind(dim=1)  # (N, 5), images of all ranks -> 5 columns (N,)
    (labels, predictions), (calibrated, highest, losses) = (each.long() for each in columns[:2]), columns[2:]
    uncalibrated = None if temperature is None else highest.float()
    accuracy = (labels == predictions).double().mean().item()
    f1 = macro_f1(confusion_matrix(labels, predictions, classes=log_probs.size(1)))
    return Scores(losses.mean().item(), accuracy, f1, labels, predictions, calibrated.float(), uncalibrated)


def score(saved: Checkpoint, model: nn.Module, images: ImageTensors) -> Scores:
    """Score a saved network on images, with calibrated probabilities; every rank must call it.

    It computes in float32 and in batches of a fixed size, so that train.py and predict.py get identical figures.
    """
    normalise = Normalisation(saved.mean, saved.std).to(images.device)
    temperature = saved.calibration.get("temperature")
    return evaluate(model, evaluation_loader(images, normalise), temperature=temperature)


def as_float64(value: Tensor) -> Tensor:
    """Convert a tensor to float64, or to float32 on devices that may lack float64, such as MPS."""
    return value.to(torch.float64 if value.device.type in ("cpu", "cuda") else torch.float32)


def batch_sums(loss_sum: Tensor, log_probs: Tensor, labels: Tensor, signalled: bool = False) -> Tensor:
    """This rank's sums of a step (3,), to be added over all ranks: loss, right predictions, 1 if it got a signal.

    loss_sum: (), summed over this rank's images. log_probs: (N, classes). labels: (N,). signalled: True after a signal.
    """
    correct = as_float64((log_probs.argmax(dim=1) == labels).sum())
    return torch.stack([as_float64(loss_sum.detach()), correct, torch.full_like(correct, signalled)])


class RunningScores:
    """Loss and accuracy over all images so far, as sums on the images' device.

    add doesn't wait for the device; the properties do, because they read the sums.
    """

    def __init__(self) -> None:
        self.count = 0  # images
        self.loss_sum: Tensor | float = 0.0
        self.correct: Tensor | float = 0.0

    def add(self, sums: Tensor, count: int) -> None:
        """Add the result of batch_sums for a batch of `count` images."""
        self.count += count
        self.loss_sum = self.loss_sum + sums[0]
        self.correct = self.correct + sums[1]

    def state_dict(self) -> dict:
        """The count and the sums, as plain numbers; waits for the device."""
        return {"count": self.count, "loss_sum": float(self.loss_sum), "correct": float(self.correct)}

    def load_state_dict(self, state: dict) -> None:
        """Restore the count and the sums from state_dict."""
        self.count, self.loss_sum, self.correct = state["count"], state["loss_sum"], state["correct"]

    @property
    def loss(self) -> float:
        """Mean loss per image, nats; NaN before the first image."""
        return float(self.loss_sum) / self.count if self.count else math.nan

    @property
    def accuracy(self) -> float:
        """Share of images whose most probable class is the true one, 0 to 1; NaN before the first image."""
        return float(self.correct) / self.count if self.count else math.nan


def confusion_matrix(labels: Tensor, predictions: Tensor, classes: int) -> Tensor:
    """Counts of images by true class (rows) and predicted class (columns): (classes, classes), int64."""
    return torch.bincount(labels * classes + predictions, minlength=classes**2).view(classes, classes)


def macro_f1(matrix: Tensor) -> float:
    """The mean F1 of the classes, 0 to 1, from a confusion matrix of counts (true, predicted).

    F1 is 2 TP / (2 TP + FP + FN), the harmonic mean of precision and recall; 0 for a class without images and
    predictions.
    """
    true_or_predicted = matrix.sum(dim=0) + matrix.sum(dim=1)
    return (2 * matrix.diagonal().double() / true_or_predicted.clamp(min=1)).mean().item()


def standard_error(accuracy: float, count: int) -> float:
    """Standard error, 0 to 1, of an accuracy on `count` images: the standard deviation of a binomial proportion.

    One image more counts as right and one as wrong (Laplace's rule of succession), so that it isn't 0 if all are right.
    """
    accuracy = (accuracy * count + 1) / (count + 2)
    return math.sqrt(accuracy * (1 - accuracy) / count)


def confusions(matrix: Sequence[Sequence[int]]) -> list[dict[str, int]]:
    """The confused pairs of classes, the most frequent first, as {"truth", "predicted", "count", "support"}.

    matrix: counts (true, predicted). support: all images of class truth.
    """
    pairs = [
        {"truth": truth, "predicted": predicted, "count": count, "support": sum(row)}
        for truth, row in enumerate(matrix)
        for predicted, count in enumerate(row)
        if count and predicted != truth
    ]
    return sorted(pairs, key=lambda pair: -pair["count"])


def most_confident_mistakes(labels: Tensor, predictions: Tensor, probabilities: Tensor, max_count: int) -> list[int]:
    """The indices of wrong predictions, at most max_count, the most confident first; each tensor is (N,)."""
    wrong = (predictions != labels).nonzero().flatten()
    order = probabilities[wrong].sort(descending=True, stable=True).indices
    return wrong[order[:max_count]].tolist()
