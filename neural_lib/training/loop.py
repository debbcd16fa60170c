"""train_one_epoch and validate, and what a terminal shows of them."""

import logging
import math
import time
from collections.abc import Callable, Iterable, Mapping

import torch
from torch import Tensor, nn
from tqdm import tqdm

from neural_lib.checkpoint import Checkpoint
from neural_lib.config import TrainConfig, derived_seed
from neural_lib.evaluation.scores import RunningScores, Scores, batch_sums, evaluate
from neural_lib.records import TITLES, figure_text
from neural_lib.system.devices import autocast
from neural_lib.system.distributed import all_reduce_during, any_rank, broadcast_buffers, is_main, rank, world_size
from neural_lib.system.errors import DivergedError
from neural_lib.system.signals import GracefulStop
from neural_lib.training.progress import Progress
from neural_lib.training.run import Run
from neural_lib.training.state import TrainingState

log = logging.getLogger(__name__)

FINITE_CHECK_STEPS = 100  # steps between two looks at the losses; each look waits for the device


def train_one_epoch(
    run: Run,
    stop: GracefulStop | None = None,
    bar: "ProgressBar | None" = None,
    save: Callable[[], None] | None = None,
    save_every: int = 0,
) -> None:
    """Train on each batch of run.train_loader once, from run.state.step on.

    save: is called after every `save_every` steps, unless that is 0. run.state.sums are the epoch's scores so far.
    Raises StoppedBetweenSteps after the step in which any rank received a signal, and DivergedError, at most
    FINITE_CHECK_STEPS late, if the loss is not finite.
    """
    config, state, loader = run.config, run.state, run.train_loader
    if stop and world_size() == 1:
        stop.check()
    loader.sampler.set_epoch(state.epoch, state.step)
    run.model.train()
    if config.freeze_norm:
        for module in run.model.modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm):
                module.eval()
    recent: list[Tensor] = []  # losses that are not checked yet
    for images, labels in loader:
        _seed_dropout(state.device, derived_seed(config.seed, "dropout", state.epoch, state.step, rank()))
        global_batch_size = loader.sampler.size(state.step)

        run.optimizer.zero_grad()
        with autocast(state.device, config.precision):
            log_probs = run.replica(images)
        loss_sum = run.loss_fn(log_probs, labels)
        sums = batch_sums(loss_sum, log_probs.detach(), labels, signalled=bool(stop and stop.signum))  # (3,)
        with all_reduce_during(sums):
            # scaled so that the ranks' average gradient is that of the mean over the whole batch, of whatever shards
            (loss_sum * (world_size() / global_batch_size)).backward()
        run.optimizer.step()
        if run.scheduler:
            run.scheduler.step()

        state.step += 1
        state.sums.add(sums, global_batch_size)
        recent.append(sums[0])
        if len(recent) == FINITE_CHECK_STEPS:
            _raise_if_not_finite(recent, state)
        if bar:
            bar.step(state.sums)
        if stop and world_size() == 1:
            stop.check()
        elif stop and sums[2]:
            stop.check(any_rank(stop.signum))
        if save_every and state.step % save_every == 0 and state.step < len(loader):
            save()
    _raise_if_not_finite(recent, state)


def validate(run: Run, stop: GracefulStop | None = None) -> Scores:
    """Score the run's network on its validation images, in every rank with the buffers that rank 0 saves.

    Raises StoppedBetweenSteps if any rank has received a signal.
    """
    broadcast_buffers(run.model)
    return evaluate(run.model, run.val_loader, run.config.precision, stop)


def _seed_dropout(device: torch.device, seed: int) -> None:
    # Dropout draws from the device's default generator, and so does the stochastic depth of networks of torchvision.
    # torch.manual_seed would seed every device, slowly.
    if device.type == "cpu":
        torch.default_generator.manual_seed(seed)
    else:
        torch.get_device_module(device).manual_seed(seed)


def _raise_if_not_finite(losses: list[Tensor], state: TrainingState) -> None:
    values = torch.stack(losses).tolist() if losses else []  # one transfer for all of them
    losses.clear()
    for step, value in enumerate(values, start=state.step - len(values) + 1):
        if not math.isfinite(value):
            raise DivergedError.of("training", value, state.epoch, state.config.lr, step)


class ProgressBar:
    """A bar over the images of an epoch, shown if stderr is a terminal, with the time left for epoch and run.

    Used in a with block for each epoch, so that nothing is left of it afterwards.
    """

    val_seconds = 0.0  # duration of the last validation

    def __init__(self, quiet: bool = False) -> None:
        self.disable = True if quiet or not is_main() else None  # None: tqdm shows the bar if stderr is a terminal

    def epoch(self, epoch: int, run: Run) -> "ProgressBar":
        """The bar of a run's epoch `epoch`, counted from 1, or 0."""
        self.epochs, self.train_size = run.config.epochs, len(run.train_loader.dataset)
        self.number, self.first, self.last = epoch, None, time.perf_counter()
        return self

    def __enter__(self) -> "ProgressBar":
        self.bar = tqdm(
            total=self.train_size,
            leave=False,
            disable=self.disable,
            dynamic_ncols=True,
            bar_format=f"epoch {self.number}/{self.epochs} |{{bar}}| {{desc}}",  # {postfix} would begin with a comma
        )
        return self

    def __exit__(self, *_) -> None:
        self.val_seconds = time.perf_counter() - self.last
        self.bar.close()

    def advance(self, count: int) -> None:
        """Move the bar by this number of images, without scores."""
        self.bar.update(count)

    def step(self, sums: RunningScores) -> None:
        """Move the bar after a batch. sums: the scores of the epoch so far."""
        self.last = time.perf_counter()
        if self.first is None:  # the first step is slower, and a resumed epoch begins at any step
            self.first = self.last, sums.count
        if self.bar.update(sums.count - self.bar.n):  # True a few times a second; reading the sums waits for the device
            left = self._time_left(sums.count)
            self.bar.set_description_str(f"loss {sums.loss:.3f}, acc {sums.accuracy:.3f}{left}", refresh=False)

    def _time_left(self, count: int) -> str:
        # count: images of the epoch so far. Returns ", 00:03 left, run 02:10"
        start, before = self.first
        if count == before:
            return ""
        seconds = (self.last - start) / (count - before)  # for one image
        epoch = seconds * (self.train_size - count)
        run = epoch + self.val_seconds + (self.epochs - self.number) * (seconds * self.train_size + self.val_seconds)
        return f", {tqdm.format_interval(epoch)} left, run {tqdm.format_interval(run)}"


def runs_to_train(progress: Progress, quiet: bool = False) -> Iterable[tuple[int, TrainConfig, Checkpoint | None]]:
    """progress.unfinished(), with a bar over the runs of a grid, if stderr is a terminal and there are several."""
    manager = progress.manager
    return tqdm(
        progress.unfinished(),
        desc="runs",
        total=manager.count,
        initial=len(manager.finished),
        leave=False,
        disable=True if quiet or manager.count == 1 or not is_main() else None,
        dynamic_ncols=True,
        bar_format="{desc} {n}/{total} |{bar}| {elapsed}<{remaining}",
    )


def log_heading(config: TrainConfig) -> None:
    """Log the titles of log_epoch's columns."""
    _log_row("epoch", {name: TITLES[name] for name in _columns(config)}, f"{'seconds':>10}")


def log_epoch(run: Run, is_best: bool) -> None:
    """Log the figures of the epoch that has ended, in a row: "   3/25   0.0920 ...". is_best: marks it with a star."""
    row = run.state.rows[-1]
    figures = {name: figure_text(row[name]) for name in _columns(run.config)}
    end = f"{row['epoch_duration']:>10.1f}{'  *' if is_best else ''}"
    _log_row(f"{row['epoch']}/{run.config.epochs}", figures, end)


def _columns(config: TrainConfig) -> list[str]:
    return [name for name in TITLES if name != "val_f1" or config.monitor == "f1"]


def _log_row(epoch: str, figures: Mapping[str, str], end: str) -> None:
    cells = [f"{text:>{len(TITLES[name]) + 3}}" for name, text in figures.items()]
    log.info("%10s%s%s", epoch, "".join(cells), end, extra={"bare": True})
