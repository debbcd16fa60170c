"""train_one_epoch, and what it needs: optimizer, learning-rate schedule, loss, precision, progress on the terminal."""

import copy
import itertools
import logging
import math
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn, optim
from torch.utils.data import DataLoader
from tqdm import tqdm

from neural_lib.config import TrainConfig, derived_seed
from neural_lib.data.images import Data
from neural_lib.evaluation.scores import RunningScores, batch_sums, evaluate
from neural_lib.records import TITLES, figure_text
from neural_lib.system.devices import autocast, computes_bfloat16, now, select_precision
from neural_lib.system.distributed import all_reduce_during, any_rank, broadcast, rank, replicate, world_size
from neural_lib.system.errors import DivergedError, UserError
from neural_lib.system.signals import GracefulStop
from neural_lib.training.state import TrainingState

log = logging.getLogger(__name__)

TIMED_STEPS, TIMED_SECONDS, TIMED_BATCHES = 50, 5.0, 2  # at most, by which an epoch is timed
SAVING_SECONDS = 0.1  # of an epoch's files, about; of many short epochs they are most of the time
FINITE_CHECK_STEPS = 100  # steps between two looks at the losses; each look waits for the device
LEAST_STEPS, LEAST_BATCH = 8, 8  # steps of an epoch and images of a batch, of a small data set
MUON_MOMENTUM = 0.95  # Jordan's; Nesterov's kind
MUON_SCALE = 0.2  # AdamW's updates have about that root mean square (Liu et al.)
SGD_MOMENTUM = 0.9  # of PyTorch's own training references; a one-cycle schedule varies it from 0.85 to 0.95


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
        optim.Optimizer.__setstate__(self, state)  # AdamW's looks for its moments of all weights

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
    """Adam (Kingma and Ba 2015), AdamW (Loshchilov and Hutter 2019), Muon, or SGD with Nesterov's momentum.

    Fused: one pass over all weights a step instead of a handful of operations for each.
    """
    options = {"lr": config.lr, "weight_decay": config.weight_decay, "fused": True}
    if config.optimizer == "sgd":
        return optim.SGD(parameters, momentum=SGD_MOMENTUM, nesterov=True, **options)
    return {"adam": optim.Adam, "adamw": optim.AdamW, "muon": Muon}[config.optimizer](parameters, **options)


def build_scheduler(
    optimizer: optim.Optimizer, config: TrainConfig, steps_per_epoch: int
) -> optim.lr_scheduler.LRScheduler | None:
    """The schedule, to be stepped after each batch; None for a constant learning rate.

    one-cycle (Smith and Topin 2018, arXiv:1708.07120): up to config.lr during the first 30 % of all steps, then down to
    nearly nothing, the momentum (not Muon's) the other way round. linear: the same in straight lines, up during the
    first 15 %.
    """
    if config.schedule == "constant":
        return None
    shape = {"pct_start": 0.15, "anneal_strategy": "linear"} if config.schedule == "linear" else {}
    steps = {"epochs": config.epochs, "steps_per_epoch": steps_per_epoch}
    return optim.lr_scheduler.OneCycleLR(optimizer, config.lr, **steps, **shape)


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


def fit_epochs(
    minutes: float,
    config: TrainConfig,
    model: nn.Module,
    loss_fn: nn.Module,
    train_loader: DataLoader,
    val_loader: DataLoader,
) -> TrainConfig:
    """The configuration with as many epochs as can be trained, validated and saved in so many minutes, one at least.

    A copy of the model is trained for some steps and scored on some batches, which counts as well; the model stays as
    it is. All ranks call it.
    """
    device = train_loader.dataset.device
    start, trial = now(device), copy.deepcopy(model)
    optimizer = build_optimizer(trial.parameters(), replace(config, lr=config.lr / 1000))  # so that nothing diverges
    state = TrainingState(config, trial, optimizer)
    replica = replicate(trial)

    def seconds_of(work: Callable[[], object]) -> float:
        before = now(device)
        work()
        return now(device) - before

    def train(steps: int) -> None:
        state.step = 0
        train_one_epoch(replica, train_loader, loss_fn, optimizer, None, state, most_steps=steps)

    train(1)  # the first time takes longer
    step = broadcast(seconds_of(lambda: train(1)))
    steps = max(1, min(TIMED_STEPS, len(train_loader), int(TIMED_SECONDS / max(step, 1e-6))))
    training = seconds_of(lambda: train(steps)) / steps * len(train_loader)
    batches = list(itertools.islice(val_loader, TIMED_BATCHES))
    val_loader.sampler.set_epoch(1)  # from the first batch again
    evaluate(trial, batches[:1], config.precision)
    validation = seconds_of(lambda: evaluate(trial, batches, config.precision)) / len(batches) * len(val_loader)
    epoch, left = training + validation + SAVING_SECONDS, 60 * minutes - (now(device) - start)
    epochs = broadcast(max(1, int(left / epoch)))
    which = f"{epochs} fit into" if epochs * epoch <= left else "1 is the least, longer than"
    log.info("an epoch takes %.2f s: %s %g min; --epochs %d repeats this run", epoch, which, minutes, epochs)
    return replace(config, epochs=epochs)


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
