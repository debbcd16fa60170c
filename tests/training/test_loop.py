import functools
import io
import math
import re
from types import SimpleNamespace

import pytest
import torch
from one_run import make_run, train_epochs, train_steps, weights_of
from torch import nn
from tqdm import tqdm

from neural_lib.config import TrainConfig
from neural_lib.evaluation.scores import evaluate
from neural_lib.records import MEASURES
from neural_lib.system.errors import DivergedError
from neural_lib.system.signals import GracefulStop, Stopped
from neural_lib.training import loop
from neural_lib.training.loop import (
    FINITE_CHECK_STEPS,
    ProgressBar,
    log_epoch,
    log_heading,
    train_one_epoch,
    validate,
)
from neural_lib.training.run import Run

# --- train_one_epoch ---


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_it_learns(images, precision):
    rows = train_epochs(make_run(images, precision=precision), 4).state.rows
    assert rows[-1]["val_accuracy"] > 0.9 and rows[-1]["train_loss"] < rows[0]["train_loss"] / 2


def test_the_same_seed_gives_the_same_weights_bit_for_bit(images):
    runs = (make_run(images, arch="lenet-slim", seed=seed, dropout=0.2) for seed in (1, 1, 2))
    first, again, other = (weights_of(train_epochs(run, 2)) for run in runs)
    assert first == again
    assert not any(first[name] == other[name] for name in first)


def test_other_draws_between_the_epochs_change_nothing(images):
    """Dropout is seeded anew for each step, whatever has been drawn from torch's default generator."""
    weights = []
    for draws in (0, 3):
        run = make_run(images, arch="lenet-slim", dropout=0.2)
        for _ in range(2):
            train_epochs(run, 1)
            for _ in range(draws):
                evaluate(run.model, run.val_loader)
                torch.rand(5)
        weights.append(weights_of(run))
    assert weights[0] == weights[1]


@pytest.mark.parametrize("arch, values", [
    ("vgg-small", {"width": 4}), ("lenet-slim", {"schedule": "one-cycle", "dropout": 0.3})
])  # fmt: skip
def test_an_epoch_in_pieces_is_the_whole_epoch_bit_for_bit(images, arch, values):
    whole, pieces = (make_run(images, arch=arch, **values) for _ in range(2))
    train_epochs(whole, 2)
    for _ in range(2):
        while pieces.state.step < len(pieces.train_loader):
            train_steps(pieces, 3)
            torch.rand(5)
        pieces.state.end_epoch(evaluate(pieces.model, pieces.val_loader))
    assert weights_of(pieces) == weights_of(whole)
    for row, expected in zip(pieces.state.rows, whole.state.rows, strict=True):
        assert all(row[name] == expected[name] for name in row if "duration" not in name)


def test_dropout_and_the_like_are_on_in_training_and_off_in_evaluation(images):
    run = make_run(images)
    for _ in range(2):  # a network is in training mode before its first epoch anyway
        train_one_epoch(run)
        assert run.model.training
        run.state.end_epoch(validate(run))
        assert not run.model.training


def test_a_network_that_drops_parts_by_itself_is_resumed_bit_for_bit(images):
    """As networks of torchvision do by stochastic depth, without --dropout."""

    def run_that_drops() -> Run:
        run = make_run(images)
        run.model.conv1.register_forward_hook(lambda layer, _, x: nn.functional.dropout(x, 0.5, layer.training))
        return run

    whole, begun, resumed = (run_that_drops() for _ in range(3))
    train_epochs(whole, 2)
    train_epochs(begun, 1)
    train_steps(begun, 3)
    torch.rand(5)
    resumed.state.load_state_dict(begun.state.state_dict())
    train_epochs(resumed, 1)
    assert weights_of(resumed) == weights_of(whole)


class LossThatBreaks(nn.NLLLoss):
    """NaN at the n-th call, counted from 1, and an honest loss before it."""

    def __init__(self, at: int) -> None:
        super().__init__(reduction="sum")
        self.calls, self.at = 0, at

    def forward(self, log_probs, labels):
        self.calls += 1
        return super().forward(log_probs, labels) * (math.nan if self.calls == self.at else 1)


@pytest.mark.parametrize("at", [1, FINITE_CHECK_STEPS, FINITE_CHECK_STEPS + 1])
def test_a_nan_loss_is_reported_with_its_step_soon_after(images, at):
    run = make_run(images, arch="lenet-slim", batch_size=2)  # 113 steps
    run.loss_fn = LossThatBreaks(at)
    with pytest.raises(DivergedError, match=f"training loss became nan at epoch 1, step {at}; try a lower --lr than"):
        train_one_epoch(run)
    assert run.loss_fn.calls < at + FINITE_CHECK_STEPS


def test_a_nan_loss_is_reported_with_its_epoch(images):
    run = make_run(images)
    run.loss_fn = LossThatBreaks(len(run.train_loader) + 3)
    with pytest.raises(DivergedError, match="training loss became nan at epoch 2, step 3"):
        train_epochs(run, 3)


def test_an_epoch_whose_validation_is_nan_is_not_recorded(images):
    # only the last step ruins the weights: its own loss was still a number
    run = make_run(images)
    train_one_epoch(run)
    run.model.fc2.bias.data[0] = math.nan
    with pytest.raises(DivergedError, match="validation loss became nan at epoch 1; try"):
        run.state.end_epoch(evaluate(run.model, run.val_loader))
    assert run.state.rows == [] and run.state.best_epoch is None


def test_a_scheduler_steps_after_each_batch(images):
    run, rates = make_run(images, arch="lenet-slim", schedule="one-cycle", epochs=2), []
    for _ in range(2):
        while run.state.step < len(run.train_loader):
            train_steps(run, 1)
            rates.append(run.scheduler.get_last_lr()[0])
        run.state.end_epoch(evaluate(run.model, run.val_loader))
    assert len(rates) == 16 == run.scheduler.total_steps  # 8 batches an epoch
    rates.pop()  # of the step that would come after the last
    top = rates.index(max(rates))
    assert rates[:top] == sorted(rates[:top]) and rates[top:] == sorted(rates[top:], reverse=True)


def test_bfloat16_is_for_the_layers_only(images):
    for precision, dtype in (("bf16", torch.bfloat16), ("fp32", torch.float32)):
        run, seen = make_run(images, precision=precision), {}
        for name in ("conv1", "conv2", "fc1", "fc2", "logSoftmax"):
            getattr(run.model, name).register_forward_hook(
                lambda *a, name=name, seen=seen: seen.update({name: a[2].dtype})
            )
        train_one_epoch(run)
        in_training = seen.copy()
        evaluate(run.model, run.val_loader, precision)
        assert in_training == seen == dict.fromkeys(seen, dtype) | {"logSoftmax": torch.float32}
        assert all(weight.dtype == weight.grad.dtype == torch.float32 for weight in run.model.parameters())


def test_the_state_holds_the_epochs_sums_until_it_ends(images):
    run, counts = make_run(images, arch="lenet-slim"), []
    while run.state.step < len(run.train_loader):
        train_steps(run, 1)
        counts.append((run.state.step, run.state.sums.count))
    assert counts == [*((step, 32 * step) for step in range(1, 8)), (8, 225)]  # of 300 images, 225 are trained on
    run.state.end_epoch(evaluate(run.model, run.val_loader))
    assert (run.state.epoch, run.state.step, run.state.sums.count) == (2, 0, 0)


class SignalledAt(GracefulStop):
    """A signal arrives before the n-th check, counted from 1."""

    def __init__(self, times: int) -> None:
        self.signum, self.times = 0, times

    def check(self, signum=None) -> None:
        self.times -= 1
        super().check(signum or 15 * (self.times == 0))


@pytest.mark.parametrize("times", [1, 2, 9])  # before the first step, after it, ..., after the last
def test_a_signal_ends_training_between_two_steps_and_nothing_is_lost(images, times):
    whole, run = (make_run(images, arch="lenet-slim", dropout=0.2) for _ in range(2))
    train_epochs(whole, 1)
    with pytest.raises(Stopped) as caught:
        train_one_epoch(run, SignalledAt(times))
    assert caught.value.signum == 15 and run.state.step == times - 1
    train_epochs(run, 1)
    assert weights_of(run) == weights_of(whole)


def test_a_signal_stops_validation_too(images):
    with pytest.raises(Stopped):
        validate(make_run(images), SignalledAt(1))


# --- on the terminal ---


def test_the_time_left_is_shown_for_the_epoch_and_for_the_run(monkeypatch, capfd):
    now = iter(range(100))  # each reading is a second later
    monkeypatch.setattr(loop.time, "perf_counter", lambda: float(next(now)))
    shown = []
    run = SimpleNamespace(config=SimpleNamespace(epochs=3), train_loader=SimpleNamespace(dataset=range(100)))
    with ProgressBar().epoch(1, run) as progress:
        progress.bar = SimpleNamespace(
            n=0, update=lambda _: True, close=lambda: None, set_description_str=lambda text, refresh: shown.append(text)
        )
        for count in (20, 40):
            progress.step(SimpleNamespace(count=count, loss=0.25, accuracy=0.75))
    # 20 images a second: 60 are left of this epoch, and two epochs of 5 s each
    assert shown == ["loss 0.250, acc 0.750", "loss 0.250, acc 0.750, 00:03 left, run 00:13"]
    assert capfd.readouterr().err == ""  # no bar: stderr is no terminal here


def test_at_80_columns_the_bar_of_a_long_run_has_15_cells(monkeypatch):
    now, terminal = iter(range(0, 10**6, 59)), io.StringIO()  # each reading is 59 s later
    monkeypatch.setattr(loop.time, "perf_counter", lambda: float(next(now)))
    monkeypatch.setattr(terminal, "isatty", lambda: True)
    monkeypatch.setattr(loop, "tqdm", functools.partial(tqdm, file=terminal, mininterval=0, miniters=1))
    monkeypatch.setattr(loop.tqdm, "format_interval", tqdm.format_interval, raising=False)
    run = SimpleNamespace(config=SimpleNamespace(epochs=190), train_loader=SimpleNamespace(dataset=range(60)))
    with ProgressBar().epoch(100, run) as progress:
        progress.bar.dynamic_ncols = lambda file: (80, 24)
        for count in range(1, 5):
            progress.step(SimpleNamespace(count=count, loss=0.25, accuracy=0.75))
    frames = [frame for frame in terminal.getvalue().split("\r") if " left" in frame]
    expected = r"epoch 100/190 \|.{15,}\| loss 0.250, acc 0.750, \d\d:\d\d left, run \d\d:\d\d:\d\d"
    assert frames and all(re.fullmatch(expected, frame) and len(frame) == 80 for frame in frames), frames


@pytest.mark.parametrize("monitor", ["accuracy", "f1"])
def test_an_epochs_figures_stand_below_their_titles(monitor, caplog):
    measures = dict.fromkeys(MEASURES, 0.5) | {"val_f1": 0.25, "val_loss": 123456.0, "epoch_duration": 1.25, "epoch": 3}
    config = TrainConfig(monitor=monitor, epochs=25)
    with caplog.at_level("INFO", "neural_lib"):
        log_heading(config)
        log_epoch(SimpleNamespace(config=config, state=SimpleNamespace(rows=[measures])), is_best=False)
    heading, row = caplog.messages
    assert heading.split("  ")[-1].strip() == "seconds" and row.split()[0] == "3/25" and row.endswith(" 1.2")
    assert len(heading) == len(row) <= 80 - len("  *")
    assert ("val f1" in heading) is ("0.2500" in row) is (monitor == "f1")
    assert row[: heading.index("val loss") + 8].endswith("1.23e+05")
