"""What a training step minimises and how: the loss, the optimizer and its learning-rate schedule."""

import importlib
from collections.abc import Iterable

import torch
from torch import Tensor, nn, optim

from neural_lib.config import OPTIMIZERS, TrainConfig

MUON_MOMENTUM = 0.95  # Jordan's value, with Nesterov's kind of momentum
MUON_SCALE = 0.2  # the root mean square of AdamW's updates (Liu et al.)


class Muon(optim.AdamW):
    """Muon for the weights of convolutions, AdamW for all others, at one learning rate.

    Muon (Jordan et al. 2024, https://kellerjordan.github.io/posts/muon) moves a matrix, here (out, in * k * k), by its
    momentum with all singular values brought near to 1. Scaled as in Liu et al. 2025 (arXiv:2502.16982, section 2.2),
    so that it moves weights as far as AdamW does. Linear layers are left to AdamW: their matrices are large, and
    orthogonalising LeNet's takes longer than the rest of its step.
    """

    def __init__(self, parameters: Iterable[nn.Parameter], lr: float, weight_decay: float, **options) -> None:
        parameters = list(parameters)
        groups = [[each for each in parameters if (each.dim() == 4) == is_muon] for is_muon in (False, True)]
        super().__init__([{"params": each} for each in groups], lr=lr, weight_decay=weight_decay, **options)

    def __setstate__(self, state: dict) -> None:
        optim.Optimizer.__setstate__(self, state)  # AdamW's own expects its moments for all weights

    @torch.no_grad()
    def step(self, closure: None = None) -> None:
        """Move all weights once."""
        others, convolutions = groups = self.param_groups
        try:
            self.param_groups = [others]
            super().step(closure)
        finally:
            self.param_groups = groups
        for weight in convolutions["params"]:
            if weight.grad is None:
                continue
            if "momentum_buffer" not in self.state[weight]:
                self.state[weight]["momentum_buffer"] = torch.zeros_like(weight)
            momentum = self.state[weight]["momentum_buffer"]
            momentum.lerp_(weight.grad, 1 - MUON_MOMENTUM)
            matrix = weight.grad.lerp(momentum, MUON_MOMENTUM).flatten(1)  # (out, in, k, k) -> (out, in * k * k)
            distance = convolutions["lr"] * MUON_SCALE * max(matrix.shape) ** 0.5
            weight.mul_(1 - convolutions["lr"] * convolutions["weight_decay"])
            weight.sub_(orthogonalised(matrix).reshape(weight.shape), alpha=distance)


def orthogonalised(matrix: Tensor) -> Tensor:
    """A matrix (m, n) with its singular values brought to about 0.7 to 1.1, by Newton-Schulz iterations.

    Those below a hundredth of the matrix's norm stay smaller. Coefficients and number of iterations are Jordan's.
    """
    is_tall = matrix.size(0) > matrix.size(1)
    x = matrix.T if is_tall else matrix
    x = x / (x.norm() + 1e-7)
    for _ in range(5):
        gram = x @ x.T
        x = torch.addmm(x, torch.addmm(gram, gram, gram, beta=-4.7750, alpha=2.0315), x, beta=3.4445)
    return x.T if is_tall else x


def build_optimizer(parameters: Iterable[nn.Parameter], config: TrainConfig) -> optim.Optimizer:
    """Build the optimizer that the configuration names, as config.OPTIMIZERS has it."""
    path, arguments = OPTIMIZERS[config.optimizer]
    module, name = path.rsplit(".", 1)
    optimizer = getattr(importlib.import_module(module), name)
    return optimizer(parameters, lr=config.lr, weight_decay=config.weight_decay, **arguments)


def build_scheduler(
    optimizer: optim.Optimizer, config: TrainConfig, steps_per_epoch: int
) -> optim.lr_scheduler.LRScheduler | None:
    """The schedule, to be stepped after each batch; None for a constant learning rate, or without epochs.

    one-cycle (Smith and Topin 2018, arXiv:1708.07120): up to config.lr during the first 30 % of all steps, then down to
    nearly nothing, the momentum (not Muon's) the other way round. linear: the same in straight lines, up during the
    first 15 %. An optimizer without betas and momentum keeps it that way.
    """
    if config.schedule == "constant" or not config.epochs:
        return None
    has_momentum = "betas" in optimizer.defaults or optimizer.defaults.get("momentum", 0) > 0
    shape = {"pct_start": 0.15, "anneal_strategy": "linear"} if config.schedule == "linear" else {}
    steps = {"epochs": config.epochs, "steps_per_epoch": steps_per_epoch}
    return optim.lr_scheduler.OneCycleLR(optimizer, config.lr, cycle_momentum=has_momentum, **steps, **shape)


def build_loss(config: TrainConfig, counts: Tensor | None = None) -> nn.Module:
    """The training loss of log-probabilities (N, classes) and true classes (N,): its sum over the images, in nats.

    counts: images of each class that are trained on (classes,), on the device; with balanced class weights an image
    counts images / (classes * images of its class) times, as scikit-learn has it. With label smoothing (Szegedy et al.
    2016, arXiv:1512.00567, section 7) it is CrossEntropyLoss, which takes log-probabilities as well: log-softmax leaves
    them unchanged.
    """
    balanced = config.class_weights == "balanced"
    reduction = "none" if balanced else "sum"
    if config.label_smoothing:
        loss = nn.CrossEntropyLoss(label_smoothing=config.label_smoothing, reduction=reduction)
    else:
        loss = nn.NLLLoss(reduction=reduction)
    return BalancedLoss(loss, counts) if balanced else loss


class BalancedLoss(nn.Module):
    """The sum over images of their loss times images / (classes * images of their class).

    loss: computes the loss of each image. counts: images of each class (classes,). With label smoothing, torch's own
    weights would also weigh the smoothed share of every other class, and so favour rare ones.
    """

    def __init__(self, loss: nn.Module, counts: Tensor) -> None:
        super().__init__()
        self.loss, self.weight = loss, (counts.sum() / (len(counts) * counts.clamp(min=1))).float()

    def forward(self, log_probs: Tensor, labels: Tensor) -> Tensor:
        """Log-probabilities (N, classes) and true classes (N,) -> ()."""
        return (self.loss(log_probs, labels) * self.weight[labels.clamp(min=0)]).sum()  # PADDING's loss is 0
