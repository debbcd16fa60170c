"""train_one_epoch, and what it needs: optimizer, learning-rate schedule, loss, precision, progress on the terminal."""

import logging
import math
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn, optim
from torch.utils.data import DataLoader
from tqdm import tqdm

from neural_lib.config import TrainConfig, derived_seed
from neural_lib.data.images import Data
from neural_lib.evaluation.scores import RunningScores, batch_sums
from neural_lib.records import TITLES, figure_text
from neural_lib.system.devices import autocast, computes_bfloat16, select_precision
from neural_lib.system.distributed import all_reduce_during, any_rank, rank, world_size
from neural_lib.system.errors import DivergedError, UserError
from neural_lib.system.signals import GracefulStop
from neural_lib.training.state import TrainingState

log = logging.getLogger(__name__)

FINITE_CHECK_STEPS = 100  # steps between two looks at the losses; each look waits for the device
LEAST_STEPS, LEAST_BATCH = 8, 8  # steps of an epoch and images of a batch, of a small data set
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
    """The schedule, to be stepped after each batch; None for a constant learning rate.

    one-cycle (Smith and Topin 2018, arXiv:1708.07120): up to config.lr during the first 30 % of all steps, then down to
    nearly nothing, the momentum the other way round.
    """
    if config.schedule == "constant":
        return None
    return optim.lr_scheduler.OneCycleLR(optimizer, config.lr, epochs=config.epochs, steps_per_epoch=steps_per_epoch)


def build_loss(config: TrainConfig, counts: Tensor | None = None) -> nn.Module:
    """The training loss of log-probabilities (N, classes) and true classes (N,): its sum over the images, in nats.

    counts: images of each class that are trained on (classes,), on the device; with balanced class weights an image
    counts images / (classes * images of its class) times, as scikit-learn has it. With label smoothing (Szegedy et al.
    2016, arXiv:1512.00567, section 7) it is CrossEntropyLoss, which takes log-probabilities as well: their log-softmax
    is what they are.
    """
    balanced = config.class_weights == "balanced"
    reduction = "none" if balanced else "sum"
    if config.label_smoothing:
        loss = nn.CrossEntropyLoss(label_smoothing=config.label_smoothing, reduction=reduction)
    else:
        loss = nn.NLLLoss(reduction=reduction)
    return BalancedLoss(loss, counts) if balanced else loss


class BalancedLoss(nn.Module):
    """The sum of each image's loss times images / (classes * images of its class).

    loss: gives that of each image. counts: images of each class (classes,). torch's own weights would, with label
    smoothing, also weigh the smoothed share of every other class, and so favour the rare ones.
    """

    def __init__(self, loss: nn.Module, counts: Tensor) -> None:
        super().__init__()
        self.loss, self.weight = loss, (counts.sum() / (len(counts) * counts.clamp(min=1))).float()

    def forward(self, log_probs: Tensor, labels: Tensor) -> Tensor:
        """Log-probabilities (N, classes) and true classes (N,) -> ()."""
        return (self.loss(log_probs, labels) * self.weight[labels.clamp(min=0)]).sum()  # PADDING's loss is 0


def fit_batches(configs: Sequence[TrainConfig], data: Data, is_given: bool) -> list[TrainConfig]:
    """The configurations with batches that suit one's own data set: a small one gets small batches.

    An epoch has LEAST_STEPS steps or more, as long as that leaves LEAST_BATCH images in each. is_given: whether
    --batch-size was given; then it stays, and raises UserError if it is larger than the part that is trained on.
    """
    counts = [len(data.split(config)[0]) for config in configs]
    for config, count in zip(configs, counts, strict=True):
        if is_given and config.batch_size > count:
            raise UserError(f"--batch-size {config.batch_size} is larger than the {count:,} images to train on")
    if is_given:
        return list(configs)
    most = [min(count, max(count // LEAST_STEPS, LEAST_BATCH)) for count in counts]
    return [replace(each, batch_size=min(each.batch_size, size)) for each, size in zip(configs, most, strict=True)]


def resolve_precision(configs: Sequence[TrainConfig], device: torch.device) -> list[TrainConfig]:
    """The configurations with `auto` precision replaced by what suits the device; logs which, and why."""
    is_native = computes_bfloat16(device)
    for requested in dict.fromkeys(config.precision for config in configs):
        reason = f"the {device} {'computes bf16' if is_native else 'is not known to compute bf16'} natively"
        why = f" ({reason})" if requested == "auto" else ""
        log.info("precision: %s%s", select_precision(requested, device), why)
        if requested == "bf16" and not is_native:
            log.warning("--precision bf16: %s; fp32 may be faster", reason)
    return [replace(each, precision=select_precision(each.precision, device)) for each in configs]


def train_one_epoch(
    model: nn.Module,
    loader: DataLoader,
    loss_fn: nn.Module,
    optimizer: optim.Optimizer,
    scheduler: optim.lr_scheduler.LRScheduler | None,
    state: TrainingState,
    stop: GracefulStop | None = None,
    progress: "Progress | None" = None,
    most_steps: int = 0,
) -> bool:
    """Train on each batch of a loader once, from state.step on; True if the epoch's last batch is done.

    loader: of images.make_loader, this rank's shards. model: state's, or its replica over the ranks. loss_fn: the sum
    over a batch. most_steps: after which it returns; 0: none. state.sums are the epoch's scores so far. Raises Stopped
    after the step in which any rank received a signal, and DivergedError, at most FINITE_CHECK_STEPS late, if the
    loss is not finite.
    """
    config, device, last = state.config, state.device, state.step + most_steps if most_steps else len(loader)
    if stop and world_size() == 1:
        stop.check()
    loader.sampler.set_epoch(state.epoch, state.step)
    model.train()
    recent: list[Tensor] = []  # losses not looked at yet
    for images, labels in loader:
        if config.dropout:
            _seed_dropout(device, derived_seed(config.seed, "dropout", state.epoch, state.step, rank()))
        global_batch_size = loader.sampler.size(state.step)

        optimizer.zero_grad()
        with autocast(device, config.precision):
            log_probs = model(images)
        loss_sum = loss_fn(log_probs, labels)
        sums = batch_sums(loss_sum, log_probs.detach(), labels, signalled=bool(stop and stop.signum))  # (3,)
        with all_reduce_during(sums):
            # the mean over the global batch, though ranks average their gradients and shards may differ in size
            (loss_sum * (world_size() / global_batch_size)).backward()
        optimizer.step()
        if scheduler:
            scheduler.step()

        state.step += 1
        state.sums.add(sums, global_batch_size)
        recent.append(sums[0])
        if len(recent) == FINITE_CHECK_STEPS:
            _raise_if_not_finite(recent, state)
        if progress:
            progress.step(state.sums)
        if stop and world_size() == 1:
            stop.check()
        elif stop and sums[2]:
            stop.check(any_rank(stop.signum))
        if state.step == last:
            break
    _raise_if_not_finite(recent, state)
    return state.step >= len(loader)


def _seed_dropout(device: torch.device, seed: int) -> None:
    # dropout draws from the device's default generator; torch.manual_seed would seed every device, slowly
    if device.type == "cpu":
        torch.default_generator.manual_seed(seed)
    else:
        torch.get_device_module(device).manual_seed(seed)


def _raise_if_not_finite(losses: list[Tensor], state: TrainingState) -> None:
    values = torch.stack(losses).tolist() if losses else []  # one read for all
    losses.clear()
    for step, value in enumerate(values, start=state.step - len(values) + 1):
        if not math.isfinite(value):
            raise DivergedError.of("training", value, state.epoch, state.config.lr, step)


class Progress:
    """A bar over the images of an epoch, where stderr is a terminal, with the time left for the epoch and for the run.

    Used in a with block for each epoch, so that nothing is left of it afterwards.
    """

    val_seconds = 0.0  # that the last validation took

    def __init__(self, epochs: int, train_size: int, quiet: bool = False) -> None:
        self.epochs, self.train_size = epochs, train_size
        self.disable = True if quiet else None  # None: tqdm's own look at whether stderr is a terminal

    def epoch(self, epoch: int) -> "Progress":
        """The bar of epoch `epoch`, counted from 1."""
        self.number, self.first, self.last = epoch, None, time.perf_counter()
        return self

    def __enter__(self) -> "Progress":
        self.bar = tqdm(
            desc=f"epoch {self.number}/{self.epochs}",
            total=self.train_size,
            unit=" img",
            unit_scale=True,
            leave=False,
            disable=self.disable,
            dynamic_ncols=True,
            bar_format="{desc} {percentage:3.0f}% |{bar}| {rate_fmt}{postfix}",
        )
        return self

    def __exit__(self, *_) -> None:
        self.val_seconds = time.perf_counter() - self.last
        self.bar.close()

    def step(self, sums: RunningScores) -> None:
        """A batch has been trained on; sums: the epoch's so far."""
        self.last = time.perf_counter()
        if self.first is None:  # the first step waits for more than it computes, and a resumed epoch begins anywhere
            self.first = self.last, sums.count
        if self.bar.update(sums.count - self.bar.n):  # true a few times a second: only then are the sums read back
            left = self._time_left(sums.count)
            self.bar.set_postfix_str(f"{left}loss {sums.loss:.3f}, acc {sums.accuracy:.3f}", refresh=False)

    def _time_left(self, count: int) -> str:
        # after so many images of the epoch: "00:03 left, run 02:10, "
        start, before = self.first
        if count == before:
            return ""
        seconds = (self.last - start) / (count - before)  # an image
        epoch = seconds * (self.train_size - count)
        run = epoch + self.val_seconds + (self.epochs - self.number) * (seconds * self.train_size + self.val_seconds)
        return f"{tqdm.format_interval(epoch)} left, run {tqdm.format_interval(run)}, "


def runs_bar(runs: int, finished: int, quiet: bool = False) -> tqdm:
    """A bar over the runs of a grid, where stderr is a terminal and there are several."""
    return tqdm(
        desc="runs",
        total=runs,
        initial=finished,
        leave=False,
        disable=True if quiet or runs == 1 else None,
        dynamic_ncols=True,
        bar_format="{desc} {n}/{total} |{bar}| {elapsed}<{remaining}",
    )


def epochs_heading(monitor: str) -> str:
    """The titles of epoch_row's columns."""
    return f"{'epoch':>10}{''.join(f'{TITLES[name]:>{_width(name)}}' for name in _columns(monitor))}{'seconds':>10}"


def epoch_row(epoch: int, epochs: int, measures: Mapping[str, float | None], monitor: str) -> str:
    """An epoch's figures in the columns of epochs_heading: "   3/25   0.0920 ...". measures: by records.MEASURES."""
    figures = "".join(f"{figure_text(measures[name]):>{_width(name)}}" for name in _columns(monitor))
    return f"{f'{epoch}/{epochs}':>10}{figures}{measures['epoch_duration']:>10.1f}"


def _columns(monitor: str) -> list[str]:
    return [name for name in TITLES if name != "val_f1" or monitor == "f1"]


def _width(name: str) -> int:
    return len(TITLES[name]) + 3
