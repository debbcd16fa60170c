"""train_one_epoch and fit: the loop, and nothing but the loop."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from neural_lib.devices import autocast
from neural_lib.errors import RunError
from neural_lib.evaluation import Evaluation, Loader, evaluate
from neural_lib.metrics import RunningScores, batch_sums
from neural_lib.processes import ALONE, Processes

LossFunction = Callable[[Tensor, Tensor], Tensor]

FINITE_CHECK_STEPS = 100  # steps between two looks at the losses; each look waits for the device


class NonFiniteLossError(RunError):
    """A loss became NaN or infinite: of training at `step`, counted from 1 within its epoch, or of validation (step 0).

    `epoch` is set by fit.
    """

    def __init__(self, loss: float, step: int = 0) -> None:
        super().__init__(loss, step)
        self.loss, self.step, self.epoch = loss, step, 0

    def __str__(self) -> str:
        if self.step:
            return f"the training loss became {self.loss} at epoch {self.epoch}, step {self.step}"
        return f"the validation loss became {self.loss} at epoch {self.epoch}"


@dataclass
class History:
    """One value per finished epoch, under the tutorial's names.

    train_*: of the training loss, on the images as they were learned, while the weights changed. val_*: evaluate's.
    """

    train_loss: list[float] = field(default_factory=list)
    train_acc: list[float] = field(default_factory=list)
    val_loss: list[float] = field(default_factory=list)
    val_acc: list[float] = field(default_factory=list)


@dataclass
class Position:
    """How far training has come: where it goes on, and what it has to tell of the epoch that is under way."""

    epoch: int = 1  # the one under way, counted from 1
    step: int = 0  # batches of it that have been learned
    scores: RunningScores = field(default_factory=RunningScores)  # of these batches


class Callback:
    """What fit calls as it goes; every method does nothing until a subclass says otherwise."""

    stop = False  # whether training is to end after this epoch

    def on_epoch_begin(self, epoch: int) -> None:
        """Epoch `epoch`, counted from 1, begins."""

    def on_batch_end(self, scores: RunningScores) -> None:
        """A training batch has been learned; `scores` holds the epoch so far."""

    def on_epoch_end(self, epoch: int, train: RunningScores, val: Evaluation) -> None:
        """Epoch `epoch` was trained, with these scores, and validated with those."""


def train_one_epoch(
    model: nn.Module,
    loader: Loader,
    loss_fn: LossFunction,
    optimizer: torch.optim.Optimizer,
    scheduler: torch.optim.lr_scheduler.LRScheduler | None = None,
    precision: str = "fp32",
    callbacks: Sequence[Callback] = (),
    position: Position | None = None,
    processes: Processes = ALONE,
) -> RunningScores:
    """Learn every batch of the loader once; the scheduler, where there is one, steps after each.

    precision: 'fp32' or 'bf16', of the forward and the backward pass; weights, loss and optimizer are float32 always.
    position: kept up to date; where it is in the middle of an epoch, the loader gives that epoch's remaining batches.
    processes: those who train together, where model and loader are of one of several; the scores are of all.
    Raises NonFiniteLossError at most FINITE_CHECK_STEPS steps late.
    """
    model.train()
    position = position or Position()
    scores = position.scores
    recent: list[Tensor] = []  # losses not looked at yet
    for step, (images, labels) in enumerate(loader, start=position.step + 1):
        optimizer.zero_grad()
        with autocast(images.device, precision):
            log_probs = model(images)
        loss = loss_fn(log_probs, labels)
        sums = batch_sums(loss, log_probs.detach(), labels)
        with processes.summed(sums):  # beside the backward pass; a process alone has nothing to add
            loss.backward()
        optimizer.step()
        if scheduler:
            scheduler.step()

        scores.add(sums, processes.whole(labels))
        position.step = step
        recent.append(sums[0])
        if len(recent) == FINITE_CHECK_STEPS:
            _raise_if_not_finite(recent, step)
            recent.clear()
        for callback in callbacks:
            callback.on_batch_end(scores)
    _raise_if_not_finite(recent, position.step)
    return scores


def _raise_if_not_finite(losses: list[Tensor], last_step: int) -> None:
    values = torch.stack(losses).tolist() if losses else []  # one read for all
    for step, value in enumerate(values, start=last_step - len(values) + 1):
        if not math.isfinite(value):
            raise NonFiniteLossError(value, step)


def fit(
    model: nn.Module,
    train_loader: Loader,
    val_loader: Loader,
    loss_fn: LossFunction,
    optimizer: torch.optim.Optimizer,
    epochs: int,
    scheduler: torch.optim.lr_scheduler.LRScheduler | None = None,
    precision: str = "fp32",
    callbacks: Sequence[Callback] = (),
    position: Position | None = None,
    processes: Processes = ALONE,
) -> History:
    """Train and validate `epochs` times, or until a callback says stop; the callbacks see each step.

    position: where to begin, which may be in the middle of an epoch, and kept up to date: once an epoch's callbacks are
    called, it is at the beginning of the next. processes: as train_one_epoch and evaluate take them. Returns the
    history from there on. Raises NonFiniteLossError, its epoch set.
    """
    history = History()
    position = position or Position()
    while position.epoch <= epochs:
        epoch = position.epoch
        for callback in callbacks:
            callback.on_epoch_begin(epoch)
        try:
            train = train_one_epoch(
                model, train_loader, loss_fn, optimizer, scheduler, precision, callbacks, position, processes
            )
            val = evaluate(model, val_loader, precision, processes)
            if not math.isfinite(val.loss):  # the epoch's last step can ruin the weights after its loss was taken
                raise NonFiniteLossError(val.loss)
        except NonFiniteLossError as error:
            error.epoch = epoch
            raise
        history.train_loss.append(train.loss)
        history.train_acc.append(train.accuracy)
        history.val_loss.append(val.loss)
        history.val_acc.append(val.accuracy)
        position.epoch, position.step, position.scores = epoch + 1, 0, RunningScores()
        for callback in callbacks:
            callback.on_epoch_end(epoch, train, val)
        if any(callback.stop for callback in callbacks):
            break
    return history
