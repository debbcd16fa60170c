"""Optimizer, learning-rate schedule and loss, as a TrainConfig names them; all are torch's own."""

from collections.abc import Iterable

from torch import nn, optim

from neural_lib.config import TrainConfig

SGD_MOMENTUM = 0.9  # of PyTorch's own training references; a one-cycle schedule varies it from 0.85 to 0.95


def build_optimizer(parameters: Iterable[nn.Parameter], config: TrainConfig) -> optim.Optimizer:
    """Adam (Kingma and Ba 2015), AdamW (Loshchilov and Hutter 2019) or SGD with Nesterov's momentum.

    Fused: one pass over all weights a step instead of a handful of operations for each.
    """
    options = {"lr": config.lr, "weight_decay": config.weight_decay, "fused": True}
    if config.optimizer == "sgd":
        return optim.SGD(parameters, momentum=SGD_MOMENTUM, nesterov=True, **options)
    return {"adam": optim.Adam, "adamw": optim.AdamW}[config.optimizer](parameters, **options)


def build_scheduler(
    optimizer: optim.Optimizer, config: TrainConfig, steps_per_epoch: int
) -> optim.lr_scheduler.LRScheduler | None:
    """What is stepped after each batch, or None for a constant learning rate.

    one-cycle (Smith and Topin 2018, arXiv:1708.07120): up to config.lr during the first 30 % of all steps, then down to
    nearly nothing, the momentum the other way round.
    """
    if config.schedule == "constant":
        return None
    return optim.lr_scheduler.OneCycleLR(optimizer, config.lr, epochs=config.epochs, steps_per_epoch=steps_per_epoch)


def build_loss(config: TrainConfig) -> nn.Module:
    """The training loss of log-probabilities (N, classes) and true classes (N,), its mean in nats.

    With label smoothing (Szegedy et al. 2016, arXiv:1512.00567, section 7) it is CrossEntropyLoss, which takes
    log-probabilities as well: their log-softmax is what they are.
    """
    if config.label_smoothing:
        return nn.CrossEntropyLoss(label_smoothing=config.label_smoothing)
    return nn.NLLLoss()
