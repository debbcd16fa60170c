"""Counts and sums over samples, and what is read off them."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor


def _widened(value: Tensor) -> Tensor:
    wide = torch.float64 if value.device.type in ("cpu", "cuda") else torch.float32  # MPS and some XPUs lack float64
    return value.to(wide)


def batch_sums(loss_sum: Tensor, log_probs: Tensor, labels: Tensor, signalled: bool = False) -> Tensor:
    """What the ranks sum up after a step (3,): loss, number of right predictions, ranks that have noted a signal.

    loss_sum: () over this rank's images, whose log-probabilities are (N, classes) and true classes (N,).
    """
    correct = _widened((log_probs.argmax(dim=1) == labels).sum())
    return torch.stack([_widened(loss_sum.detach()), correct, torch.full_like(correct, signalled)])


class RunningScores:
    """Loss and accuracy over the images seen so far, summed where the images are.

    Adding queues work on the device and waits for nothing; the properties read the sums back and so wait.
    """

    def __init__(self) -> None:
        self.count = 0  # images whose predictions were counted
        self._loss_count = 0  # and whose losses were
        self._loss_sum: Tensor | float = 0.0
        self._correct: Tensor | int = 0

    def add(self, sums: Tensor, count: int) -> None:
        """Add what batch_sums gave of a batch of `count` images."""
        self.count += count
        self._loss_count += count
        self._loss_sum = self._loss_sum + sums[0]
        self._correct = self._correct + sums[1]

    def add_correct(self, log_probs: Tensor, labels: Tensor) -> None:
        """Add a batch's predictions alone, as log-probabilities or logits (N, classes), and its true classes (N,)."""
        self.count += labels.size(0)
        self._correct = self._correct + (log_probs.argmax(dim=1) == labels).sum()

    def add_loss(self, loss: Tensor, count: int) -> None:
        """Add the mean loss () of `count` images alone."""
        self._loss_count += count
        self._loss_sum = self._loss_sum + _widened(loss.detach()) * count

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


def standard_error(accuracy: float, count: int) -> float:
    """Standard error of an accuracy (0 to 1) on `count` images: that of a binomial proportion.

    As if one image more were right and one more wrong, so that it isn't 0 where all are right.
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


def worst(labels: Tensor, predictions: Tensor, probabilities: Tensor, most: int) -> list[int]:
    """The indices of at most so many wrong predictions, the most confident first; each tensor is (N,)."""
    wrong = (predictions != labels).nonzero().flatten()
    order = probabilities[wrong].sort(descending=True, stable=True).indices
    return wrong[order[:most]].tolist()


def report(labels: Tensor, predictions: Tensor, classes: Sequence[str]) -> str:
    """scikit-learn's classification_report of true and predicted classes (N,), a line a class, as text."""
    from sklearn.metrics import classification_report  # a second to import, and wanted once, at the end

    return classification_report(labels, predictions, target_names=classes, digits=4, **_every(classes))


def scores(labels: Tensor, predictions: Tensor, classes: Sequence[str]) -> dict:
    """The same figures as plain types, unrounded: accuracy, both means, and an object for each class in `classes`."""
    from sklearn.metrics import classification_report

    numbers = [str(label) for label in range(len(classes))]  # for names may be the same, or "accuracy"
    options = {"target_names": numbers, "output_dict": True, **_every(classes)}
    table = classification_report(labels, predictions, **options)
    of_classes = [{"class": name, **table[number]} for name, number in zip(classes, numbers, strict=True)]
    for row in [*of_classes, table["macro avg"], table["weighted avg"]]:
        row["support"] = int(row["support"])
    accuracy = (labels == predictions).double().mean().item()
    return {
        "accuracy": accuracy,
        **{name: table[name] for name in ("macro avg", "weighted avg")},
        "classes": of_classes,
    }


def _every(classes: Sequence[str]) -> dict:
    # also a class that neither occurs nor is predicted, with scores of 0
    return {"labels": range(len(classes)), "zero_division": 0}
