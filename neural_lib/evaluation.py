"""evaluate: a network's scores on a set of images, and what it says of each."""

from collections.abc import Iterable
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from neural_lib.devices import autocast
from neural_lib.metrics import RunningScores, confusion_matrix, macro_f1

# yields (images, labels) ready for the model, on its device: float (N, C, H, W) and int64 (N,)
Loader = Iterable[tuple[Tensor, Tensor]]


class Evaluation(NamedTuple):
    """What one pass over a loader gives; the classes are in the loader's order, on the CPU."""

    loss: float  # mean negative log-likelihood per image, nats
    accuracy: float  # 0 to 1
    f1: float  # macro: the mean over all classes, 0 to 1
    labels: Tensor  # (N,) true classes
    predictions: Tensor  # (N,) most probable classes
    probabilities: Tensor  # (N,) theirs, 0 to 1


@torch.no_grad()  # inference_mode would keep autocast from converting each weight once alone
def evaluate(model: nn.Module, loader: Loader, precision: str = "fp32") -> Evaluation:
    """Score the model on every image of the loader, in evaluation mode; no generator is touched."""
    model.eval()
    scores = RunningScores()
    batches = []
    with autocast(next(model.parameters()).device, precision):
        for images, labels in loader:
            log_probs = model(images)
            scores.update(functional.nll_loss(log_probs, labels), log_probs, labels)
            highest, predictions = log_probs.max(dim=1)
            batches.append((labels, predictions, highest.exp()))
    labels, predictions, probabilities = (torch.cat(parts).cpu() for parts in zip(*batches, strict=True))
    f1 = macro_f1(confusion_matrix(labels, predictions, classes=log_probs.size(1)))
    return Evaluation(scores.loss, scores.accuracy, f1, labels, predictions, probabilities)
