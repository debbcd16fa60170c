import math
from types import SimpleNamespace

import pytest
import torch
from one_run import Run
from torch import nn

from neural_lib import training
from neural_lib.config import TrainConfig
from neural_lib.errors import DivergedError
from neural_lib.evaluation import evaluate
from neural_lib.interrupts import GracefulStop, Stopped
from neural_lib.loaders import ImageTensors
from neural_lib.training import FINITE_CHECK_STEPS, Progress


def make_run(images: ImageTensors, **values) -> Run:
    """A run on 225 images, with 75 to validate."""
    return Run(TrainConfig(**{"batch_size": 32, "epochs": 9, **values}), images)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_it_learns(images, precision):
    rows = make_run(images, precision=precision).epochs(4).state.rows
    assert rows[-1]["val_accuracy"] > 0.9 and rows[-1]["train_loss"] < rows[0]["train_loss"] / 2


def test_the_same_seed_gives_the_same_weights_bit_for_bit(images):
    first, again, other = (make_run(images, seed=seed, dropout=0.2).epochs(2).weights() for seed in (1, 1, 2))
    assert first == again
    assert not any(first[name] == other[name] for name in first)


def test_what_is_drawn_in_between_changes_nothing(images):
    """Evaluation, or whoever draws from torch's default generator: dropout is seeded anew for each step."""
    weights = []
    for draws in (0, 3):
        run = make_run(images, dropout=0.2)
        for _ in range(2):
            run.epochs(1)
            for _ in range(draws):
                evaluate(run.model, run.val_loader)
                torch.rand(5)
        weights.append(run.weights())
    assert weights[0] == weights[1]


@pytest.mark.parametrize("arch, values", [
    ("lenet", {"dropout": 0.3}), ("vgg-small", {"width": 4}), ("lenet-slim", {"schedule": "one-cycle"})
])  # fmt: skip
def test_an_epoch_in_pieces_is_the_whole_epoch_bit_for_bit(images, arch, values):
    whole, pieces = (make_run(images, arch=arch, **values) for _ in range(2))
    whole.epochs(2)
    for _ in range(2):
        while not pieces.train(most_steps=3):
            torch.rand(5)
        pieces.state.end_epoch(evaluate(pieces.model, pieces.val_loader))
    assert pieces.weights() == whole.weights()
    for row, expected in zip(pieces.state.rows, whole.state.rows, strict=True):
        assert all(row[name] == expected[name] for name in row if "duration" not in name)


def test_dropout_and_the_like_are_on_in_training_and_off_in_evaluation(images):
    run = make_run(images)
    run.train()
    assert run.model.training
    evaluate(run.model, run.val_loader)
    assert not run.model.training


class LossThatBreaks(nn.NLLLoss):
    """NaN at the n-th call, counted from 1, and an honest loss before it."""

    def __init__(self, at: int) -> None:
        super().__init__(reduction="sum")
        self.calls, self.at = 0, at

    def forward(self, log_probs, labels):
        self.calls += 1
        return super().forward(log_probs, labels) * (math.nan if self.calls == self.at else 1)


@pytest.mark.parametrize("at", [1, FINITE_CHECK_STEPS, FINITE_CHECK_STEPS + 1])
def test_a_nan_loss_is_told_with_its_step_soon_after(images, at):
    run = make_run(images, batch_size=2)  # 113 steps
    run.loss_fn = LossThatBreaks(at)
    with pytest.raises(DivergedError, match=f"training loss became nan at epoch 1, step {at}; try a lower --lr than"):
        run.train()
    assert run.loss_fn.calls < at + FINITE_CHECK_STEPS


def test_a_nan_loss_is_told_with_its_epoch(images):
    run = make_run(images)
    run.loss_fn = LossThatBreaks(len(run.loader) + 3)
    with pytest.raises(DivergedError, match="training loss became nan at epoch 2, step 3"):
        run.epochs(3)


def test_a_nan_validation_is_no_finished_epoch(images):
    # nothing but the last step ruins the weights: its own loss was still a number
    run = make_run(images)
    run.train()
    run.model.fc2.bias.data[0] = math.nan
    with pytest.raises(DivergedError, match="validation loss became nan at epoch 1; try"):
        run.state.end_epoch(evaluate(run.model, run.val_loader))
    assert run.state.rows == [] and run.state.best_epoch == 0


def test_a_scheduler_steps_after_each_batch(images):
    run, rates = make_run(images, schedule="one-cycle", epochs=2), []
    for _ in range(2):
        while not run.train(most_steps=1):
            rates.append(run.scheduler.get_last_lr()[0])
        rates.append(run.scheduler.get_last_lr()[0])
        run.state.end_epoch(evaluate(run.model, run.val_loader))
    assert len(rates) == 16 == run.scheduler.total_steps  # 8 batches an epoch
    rates.pop()  # of the step that would come after the last
    top = rates.index(max(rates))
    assert rates[:top] == sorted(rates[:top]) and rates[top:] == sorted(rates[top:], reverse=True)


def test_bfloat16_is_for_the_layers_and_nothing_else(images):
    for precision, dtype in (("bf16", torch.bfloat16), ("fp32", torch.float32)):
        run, seen = make_run(images, precision=precision), {}
        for name in ("conv1", "conv2", "fc1", "fc2", "logSoftmax"):
            getattr(run.model, name).register_forward_hook(
                lambda *a, name=name, seen=seen: seen.update({name: a[2].dtype})
            )
        run.train()
        in_training = seen.copy()
        evaluate(run.model, run.val_loader, precision)
        assert in_training == seen == dict.fromkeys(seen, dtype) | {"logSoftmax": torch.float32}
        assert all(weight.dtype == weight.grad.dtype == torch.float32 for weight in run.model.parameters())


def test_the_state_holds_the_epochs_sums_until_it_ends(images):
    run, counts = make_run(images), []
    while not run.train(most_steps=1):
        counts.append((run.state.step, run.state.sums.count))
    assert counts == [(step, 32 * step) for step in range(1, 8)]
    assert (run.state.step, run.state.sums.count) == (8, 225)  # of 300, 225 are trained on
    run.state.end_epoch(evaluate(run.model, run.val_loader))
    assert (run.state.epoch, run.state.step, run.state.sums.count) == (2, 0, 0)


class SignalledAt(GracefulStop):
    """Notes a signal when it is asked for the n-th time, counted from 1."""

    def __init__(self, times: int) -> None:
        self.signum, self.times = 0, times

    def check(self, signum=None) -> None:
        self.times -= 1
        super().check(signum or 15 * (self.times == 0))


@pytest.mark.parametrize("times", [1, 2, 5, 9])  # before the first step, after it, ..., after the last
def test_a_signal_ends_training_between_two_steps_and_nothing_is_lost(images, times):
    whole, run = make_run(images, dropout=0.2).epochs(1), make_run(images, dropout=0.2)
    with pytest.raises(Stopped) as caught:
        run.train(SignalledAt(times))
    assert caught.value.signum == 15 and run.state.step == times - 1
    run.epochs(1)
    assert run.weights() == whole.weights()


def test_evaluation_is_stopped_by_a_signal_too(images):
    run = make_run(images)
    with pytest.raises(Stopped):
        evaluate(run.model, run.val_loader, stop=SignalledAt(1))


def test_the_time_left_is_told_for_the_epoch_and_for_the_run(monkeypatch, capfd):
    now = iter(range(100))  # a second from one look to the next
    monkeypatch.setattr(training.time, "perf_counter", lambda: float(next(now)))
    told = []
    with Progress(epochs=3, train_size=100).epoch(1) as progress:
        progress.bar = SimpleNamespace(
            n=0, update=lambda _: True, close=lambda: None, set_postfix_str=lambda text, refresh: told.append(text)
        )
        for count in (20, 40):
            progress.step(SimpleNamespace(count=count, loss=0.25, accuracy=0.75))
    # 20 images a second: 60 are left of this epoch, and two epochs of 5 s each
    assert told == ["loss 0.250, acc 0.750", "00:03 left, run 00:13, loss 0.250, acc 0.750"]
    assert capfd.readouterr().err == ""  # no bar: stderr is no terminal here
