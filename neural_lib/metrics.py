"""Counts and sums over samples, and what is read off them."""

import math
from collections.abc import Iterable, Sequence

import torch
from torch import Tensor


class RunningScores:
    """Loss and accuracy over the images seen so far, summed where the images are.

    update() queues work on the device and waits for nothing; the properties read the sums back and so wait.
    """

    def __init__(self) -> None:
        self.count = 0  # images whose predictions were counted
        self._loss_count = 0  # and whose losses were
        self._loss_sum: Tensor | float = 0.0
        self._correct: Tensor | int = 0

    def update(self, loss: Tensor, log_probs: Tensor, labels: Tensor) -> None:
        """Add one batch: its mean loss (), its log-probabilities (N, classes) and true classes (N,)."""
        self.add_correct(log_probs, labels)
        self.add_loss(loss, labels.size(0))

    def add_correct(self, log_probs: Tensor, labels: Tensor) -> None:
        """Add a batch's predictions alone, as log-probabilities or logits (N, classes), and its true classes (N,)."""
        self.count += labels.size(0)
        self._correct = self._correct + (log_probs.argmax(dim=1) == labels).sum()

    def add_loss(self, loss: Tensor, count: int) -> None:
        """Add the mean loss () of `count` images alone."""
        self._loss_count += count
        wide = torch.float64 if loss.device.type in ("cpu", "cuda") else torch.float32  # MPS and some XPUs lack float64
        self._loss_sum = self._loss_sum + loss.detach().to(wide) * count

    def state_dict(self) -> dict:
        """The counts and sums, as plain types and tensors."""
        return vars(self).copy()

    def load_state_dict(self, state: dict, device: torch.device) -> None:
        """Go on from what state_dict gave."""
        for name, value in state.items():
            setattr(self, name, value.to(device) if isinstance(value, Tensor) else value)

    @property
    def loss(self) -> float:
        """Mean loss per image, in nats; NaN where there was none."""
        return float(self._loss_sum) / self._loss_count if self._loss_count else math.nan

    @property
    def accuracy(self) -> float:
        """Share of the images whose most probable class is the true one, 0 to 1; NaN where there was none."""
        return float(self._correct) / self.count if self.count else math.nan


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


def report(labels: Tensor, predictions: Tensor, classes: Sequence[str]) -> str:
    """scikit-learn's classification_report of true and predicted classes (N,), a line a class, as text."""
    from sklearn.metrics import classification_report  # a second to import, and wanted once, at the end

    return classification_report(labels, predictions, target_names=classes, digits=4, **_every(classes))


def scores(labels: Tensor, predictions: Tensor, classes: Sequence[str]) -> dict:
    """The same figures as plain types, unrounded: accuracy, both means, and an object for each class in `classes`."""
    from sklearn.metrics import precision_recall_fscore_support

    def table(**options) -> tuple:
        return precision_recall_fscore_support(labels, predictions, **_every(classes), **options)

    def named(values: Iterable) -> dict:
        return dict(zip(("precision", "recall", "f1-score"), map(float, values), strict=True))

    *by_class, support = table()
    means = {
        f"{average} avg": {**named(table(average=average)[:3]), "support": len(labels)}
        for average in ("macro", "weighted")
    }
    return {
        "accuracy": (labels == predictions).double().mean().item(),
        **means,
        "classes": [
            {"class": name, **named(values), "support": int(count)}
            for name, *values, count in zip(classes, *by_class, support, strict=True)
        ],
    }


def _every(classes: Sequence[str]) -> dict:
    # also a class that neither occurs nor is predicted, with scores of 0
    return {"labels": range(len(classes)), "zero_division": 0}
