"""Counts and sums over samples, and what is read off them."""

import torch
from torch import Tensor


class RunningScores:
    """Loss and accuracy over the images seen so far, summed where the images are.

    update() queues work on the device and waits for nothing; the properties read the sums back and so wait.
    """

    def __init__(self) -> None:
        self.count = 0  # images
        self._loss_sum: Tensor | float = 0.0
        self._correct: Tensor | int = 0

    def update(self, loss: Tensor, log_probs: Tensor, labels: Tensor) -> None:
        """Add one batch: its mean loss (), its log-probabilities (N, classes) and true classes (N,)."""
        count = labels.size(0)
        wide = torch.float64 if loss.device.type in ("cpu", "cuda") else torch.float32  # MPS and some XPUs lack float64
        self.count += count
        self._loss_sum = self._loss_sum + loss.detach().to(wide) * count
        self._correct = self._correct + (log_probs.argmax(dim=1) == labels).sum()

    @property
    def loss(self) -> float:
        """Mean loss per image, in nats."""
        return float(self._loss_sum) / self.count

    @property
    def accuracy(self) -> float:
        """Share of the images whose most probable class is the true one, 0 to 1."""
        return float(self._correct) / self.count
