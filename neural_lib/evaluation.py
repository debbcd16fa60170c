"""evaluate: a network's scores on a set of images, and what it says of each."""

from collections.abc import Iterable
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from neural_lib.devices import autocast
from neural_lib.distributed import PADDING, any_rank, gather_rows
from neural_lib.interrupts import GracefulStop
from neural_lib.metrics import confusion_matrix, macro_f1

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
def evaluate(model: nn.Module, loader: Loader, precision: str = "fp32", stop: GracefulStop | None = None) -> Evaluation:
    """Score the model on every image of a loader, in evaluation mode.

    loader yields images (N, C, H, W) and labels (N,) on the model's device; of several ranks each gives its shards, and
    each gets the scores on all images. stop: checked before each batch. Raises Stopped there.
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
            batches.append((labels, predictions, highest.exp(), losses))
    columns = [
        torch.cat(shards).cpu().double() for shards in zip(*batches, strict=True)
    ]  # classes are exact in it, too
    rows = torch.stack(columns, dim=1)  # 4 of (n,) -> (n, 4)
    columns = gather_rows(rows[rows[:, 0] != PADDING]).unbind(dim=1)  # -> (N, 4) -> 4 of (N,)
    (labels, predictions), probabilities, losses = (each.long() for each in columns[:2]), columns[2].float(), columns[3]
    accuracy = (labels == predictions).double().mean().item()
    f1 = macro_f1(confusion_matrix(labels, predictions, classes=log_probs.size(1)))
    return Evaluation(losses.mean().item(), accuracy, f1, labels, predictions, probabilities)
