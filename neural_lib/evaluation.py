"""evaluate: a network's scores on a set of images, and what it says of each."""

from collections.abc import Iterable
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from neural_lib.devices import autocast
from neural_lib.metrics import confusion_matrix, macro_f1
from neural_lib.processes import ALONE, Processes

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
def evaluate(model: nn.Module, loader: Loader, precision: str = "fp32", processes: Processes = ALONE) -> Evaluation:
    """Score the model on every image of the loader, in evaluation mode; no generator is touched.

    processes: where each of several has a part of every batch; all get the scores on all images.
    """
    model.eval()
    batches = []
    with autocast(next(model.parameters()).device, precision):
        for images, labels in loader:
            log_probs = model(images)
            highest, predictions = log_probs.max(dim=1)
            losses = functional.nll_loss(log_probs, labels, reduction="none")
            batches.append((labels, predictions, highest.exp(), losses))
    columns = [torch.cat(parts).cpu().double() for parts in zip(*batches, strict=True)]  # classes are exact in it, too
    columns = processes.joined(torch.stack(columns, dim=1)).unbind(dim=1)  # (n, 4) -> (N, 4) -> 4 of (N,)
    (labels, predictions), probabilities, losses = (each.long() for each in columns[:2]), columns[2].float(), columns[3]
    accuracy = (labels == predictions).double().mean().item()
    f1 = macro_f1(confusion_matrix(labels, predictions, classes=log_probs.size(1)))
    return Evaluation(losses.mean().item(), accuracy, f1, labels, predictions, probabilities)
