import copy
import logging
import math
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from one_run import make_run
from torch import nn

from neural_lib.config import TrainConfig
from neural_lib.evaluation.scores import evaluate
from neural_lib.records import MEASURES
from neural_lib.system.errors import DivergedError
from neural_lib.system.signals import GracefulStop, Stopped
from neural_lib.training import loop
from neural_lib.training.loop import (
    FINITE_CHECK_STEPS,
    Muon,
    Progress,
    build_loss,
    build_optimizer,
    build_scheduler,
    epoch_row,
    epochs_heading,
    fit_epochs,
    orthogonalised,
    resolve_precision,
)

OPTIMIZERS = ("adam", "adamw", "muon", "sgd")


# --- train_one_epoch ---


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_it_learns(images, precision):
    rows = make_run(images, precision=precision).epochs(4).state.rows
    assert rows[-1]["val_accuracy"] > 0.9 and rows[-1]["train_loss"] < rows[0]["train_loss"] / 2


def test_the_same_seed_gives_the_same_weights_bit_for_bit(images):
    runs = (make_run(images, arch="lenet-slim", seed=seed, dropout=0.2) for seed in (1, 1, 2))
    first, again, other = (run.epochs(2).weights() for run in runs)
    assert first == again
    assert not any(first[name] == other[name] for name in first)


def test_other_draws_between_the_epochs_change_nothing(images):
    """Dropout is seeded anew for each step, whatever has been drawn from torch's default generator."""
    weights = []
    for draws in (0, 3):
        run = make_run(images, arch="lenet-slim", dropout=0.2)
        for _ in range(2):
            run.epochs(1)
            for _ in range(draws):
                evaluate(run.model, run.val_loader)
                torch.rand(5)
        weights.append(run.weights())
    assert weights[0] == weights[1]


@pytest.mark.parametrize("arch, values", [
    ("vgg-small", {"width": 4}), ("lenet-slim", {"schedule": "one-cycle", "dropout": 0.3})
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
def test_a_nan_loss_is_reported_with_its_step_soon_after(images, at):
    run = make_run(images, arch="lenet-slim", batch_size=2)  # 113 steps
    run.loss_fn = LossThatBreaks(at)
    with pytest.raises(DivergedError, match=f"training loss became nan at epoch 1, step {at}; try a lower --lr than"):
        run.train()
    assert run.loss_fn.calls < at + FINITE_CHECK_STEPS


def test_a_nan_loss_is_reported_with_its_epoch(images):
    run = make_run(images)
    run.loss_fn = LossThatBreaks(len(run.loader) + 3)
    with pytest.raises(DivergedError, match="training loss became nan at epoch 2, step 3"):
        run.epochs(3)


def test_an_epoch_whose_validation_is_nan_is_not_recorded(images):
    # only the last step ruins the weights: its own loss was still a number
    run = make_run(images)
    run.train()
    run.model.fc2.bias.data[0] = math.nan
    with pytest.raises(DivergedError, match="validation loss became nan at epoch 1; try"):
        run.state.end_epoch(evaluate(run.model, run.val_loader))
    assert run.state.rows == [] and run.state.best_epoch == 0


def test_a_scheduler_steps_after_each_batch(images):
    run, rates = make_run(images, arch="lenet-slim", schedule="one-cycle", epochs=2), []
    for _ in range(2):
        while not run.train(most_steps=1):
            rates.append(run.scheduler.get_last_lr()[0])
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
        run.train()
        in_training = seen.copy()
        evaluate(run.model, run.val_loader, precision)
        assert in_training == seen == dict.fromkeys(seen, dtype) | {"logSoftmax": torch.float32}
        assert all(weight.dtype == weight.grad.dtype == torch.float32 for weight in run.model.parameters())


def test_the_state_holds_the_epochs_sums_until_it_ends(images):
    run, counts = make_run(images, arch="lenet-slim"), []
    while not run.train(most_steps=1):
        counts.append((run.state.step, run.state.sums.count))
    assert counts == [(step, 32 * step) for step in range(1, 8)]
    assert (run.state.step, run.state.sums.count) == (8, 225)  # of 300, 225 are trained on
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
    whole.epochs(1)
    with pytest.raises(Stopped) as caught:
        run.train(SignalledAt(times))
    assert caught.value.signum == 15 and run.state.step == times - 1
    run.epochs(1)
    assert run.weights() == whole.weights()


def test_a_signal_stops_evaluation_too(images):
    run = make_run(images)
    with pytest.raises(Stopped):
        evaluate(run.model, run.val_loader, stop=SignalledAt(1))


# --- on the terminal ---


def test_the_time_left_is_shown_for_the_epoch_and_for_the_run(monkeypatch, capfd):
    now = iter(range(100))  # each reading is a second later
    monkeypatch.setattr(loop.time, "perf_counter", lambda: float(next(now)))
    shown = []
    with Progress(epochs=3, train_size=100).epoch(1) as progress:
        progress.bar = SimpleNamespace(
            n=0, update=lambda _: True, close=lambda: None, set_postfix_str=lambda text, refresh: shown.append(text)
        )
        for count in (20, 40):
            progress.step(SimpleNamespace(count=count, loss=0.25, accuracy=0.75))
    # 20 images a second: 60 are left of this epoch, and two epochs of 5 s each
    assert shown == ["loss 0.250, acc 0.750", "00:03 left, run 00:13, loss 0.250, acc 0.750"]
    assert capfd.readouterr().err == ""  # no bar: stderr is no terminal here


@pytest.mark.parametrize("monitor", ["accuracy", "f1"])
def test_an_epochs_figures_stand_below_their_titles(monitor):
    measures = dict.fromkeys(MEASURES, 0.5) | {"val_f1": 0.25, "val_loss": 123456.0, "epoch_duration": 1.25}
    heading, row = epochs_heading(monitor), epoch_row(3, 25, measures, monitor)
    assert heading.split("  ")[-1].strip() == "seconds" and row.split()[0] == "3/25" and row.endswith(" 1.2")
    assert len(heading) == len(row) and ("val f1" in heading) is ("0.2500" in row) is (monitor == "f1")
    assert row[: heading.index("val loss") + 8].endswith("1.23e+05")


# --- what the loop needs ---


@pytest.mark.parametrize(
    "name, kind",
    [("adam", torch.optim.Adam), ("adamw", torch.optim.AdamW), ("muon", Muon), ("sgd", torch.optim.SGD)],
)
def test_optimizers_are_torchs_with_the_configs_values(name, kind):
    optimizer = build_optimizer(nn.Linear(2, 2).parameters(), TrainConfig(optimizer=name, lr=0.02, weight_decay=0.03))
    group = optimizer.param_groups[0]
    assert type(optimizer) is kind
    assert (group["lr"], group["weight_decay"], group["fused"]) == (0.02, 0.03, True)
    assert name != "sgd" or (group["momentum"], group["nesterov"]) == (0.9, True)


@pytest.mark.parametrize("shape", [(8, 200), (50, 50), (32, 9), (6, 25)])
def test_orthogonalised_keeps_the_directions_and_evens_out_the_singular_values(shape):
    torch.manual_seed(0)
    u, _, vh = torch.linalg.svd(torch.randn(shape), full_matrices=False)
    matrix = u @ torch.linspace(1, 5, min(shape)).diag() @ vh
    result = orthogonalised(matrix)
    inside = u.T @ result @ vh.T
    assert torch.allclose(inside, inside.diagonal().diag(), atol=1e-4)
    assert inside.diagonal().min() > 0.5 and inside.diagonal().max() < 1.3
    assert torch.allclose(result, u @ inside @ vh, atol=1e-4)


def test_muon_is_torchs_for_convolutions_and_adamw_for_the_rest():
    if not hasattr(torch.optim, "Muon"):
        pytest.skip("this torch has no Muon")
    torch.manual_seed(0)
    layers = nn.Sequential(nn.Conv2d(3, 8, 3), nn.Flatten(), nn.Linear(8, 4)).to(memory_format=torch.channels_last)
    other = copy.deepcopy(layers)
    conv, (_, *rest) = nn.Parameter(other[0].weight.detach().flatten(1)), other.parameters()
    options = {"lr": 0.01, "weight_decay": 0.1}
    ours = Muon(layers.parameters(), **options, fused=True)
    theirs = [torch.optim.Muon([conv], **options, adjust_lr_fn="match_rms_adamw"), torch.optim.AdamW(rest, **options)]
    for _ in range(5):
        for each in layers.parameters():
            each.grad = torch.randn_like(each)
        for each, mine in zip([conv, *rest], layers.parameters(), strict=True):
            each.grad = mine.grad.reshape(each.shape).clone()
        for optimizer in (ours, *theirs):
            optimizer.step()
    assert torch.allclose(layers[0].weight.flatten(1), conv, atol=4e-4)  # torch's iterates in bfloat16
    assert torch.allclose(layers[2].weight, other[2].weight) and torch.allclose(layers[0].bias, other[0].bias)


@pytest.mark.parametrize("name", OPTIMIZERS)
@pytest.mark.parametrize("schedule", ["constant", "one-cycle", "linear"])
def test_every_optimizer_learns_with_every_schedule(name, schedule):
    torch.manual_seed(0)
    layer, inputs = nn.Linear(3, 1), torch.randn(64, 3)
    targets = inputs @ torch.tensor([[1.0], [-2.0], [0.5]])
    config = TrainConfig(optimizer=name, lr=0.05, schedule=schedule, epochs=10)
    optimizer = build_optimizer(layer.parameters(), config)
    scheduler = build_scheduler(optimizer, config, steps_per_epoch=20)
    losses = []
    for _ in range(200):
        optimizer.zero_grad()
        loss = nn.functional.mse_loss(layer(inputs), targets)
        loss.backward()
        optimizer.step()
        if scheduler:
            scheduler.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0] / 50


def rates_of(schedule: str) -> list[float]:
    """The learning rate of each of 100 steps, at most 0.01."""
    config = TrainConfig(schedule=schedule, lr=0.01, epochs=5)
    optimizer = build_optimizer(nn.Linear(2, 2).parameters(), config)
    scheduler = build_scheduler(optimizer, config, steps_per_epoch=20)
    rates = []
    for _ in range(100):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return rates


def test_linear_rises_and_falls_in_straight_lines():
    rates = rates_of("linear")
    top = rates.index(max(rates))
    falls = [before - after for before, after in zip(rates[top:], rates[top + 1 :], strict=False)]
    assert max(rates) == pytest.approx(0.01) and 12 <= top <= 17
    assert min(falls) == pytest.approx(max(falls)) and rates[-1] < 1e-5


# --- fit_epochs ---


@pytest.mark.parametrize("values", [{"arch": "lenet-slim"}, {"arch": "vgg-small", "width": 4, "dropout": 0.2}])
def test_fitting_the_epochs_leaves_the_model_and_its_training_as_they_are(images, values):
    timed, plain = (make_run(images, epochs=2, **values) for _ in range(2))
    config = fit_epochs(1.0, timed.config, timed.model, timed.loss_fn, timed.loader, timed.val_loader)
    assert config.epochs > 2 and config == replace(timed.config, epochs=config.epochs)
    assert timed.epochs(2).weights() == plain.epochs(2).weights()


@pytest.mark.parametrize("timed", [2, 8, 50])  # steps, of 8 that an epoch has
def test_as_many_epochs_are_chosen_as_fit(images, monkeypatch, caplog, timed):
    caplog.set_level(logging.INFO)
    run, seconds = make_run(images, arch="lenet-slim"), 0.0
    train_one_epoch, evaluate = loop.train_one_epoch, loop.evaluate

    def train_slowly(*arguments, most_steps: int) -> bool:  # a quarter of a second for each step
        nonlocal seconds
        seconds += 0.25 * most_steps
        return train_one_epoch(*arguments, most_steps=most_steps)

    def evaluate_slowly(model, batches, *rest):  # two seconds for each batch
        nonlocal seconds
        seconds += 2.0 * len(batches)
        return evaluate(model, batches, *rest)

    monkeypatch.setattr(loop, "now", lambda device: seconds)
    monkeypatch.setattr(loop, "train_one_epoch", train_slowly)
    monkeypatch.setattr(loop, "evaluate", evaluate_slowly)
    monkeypatch.setattr(loop, "TIMED_STEPS", timed)
    monkeypatch.setattr(loop, "TIMED_SECONDS", 3.0)
    monkeypatch.setattr(loop, "SAVING_SECONDS", 0.5)

    def epochs(minutes: float) -> int:
        return fit_epochs(minutes, run.config, run.model, run.loss_fn, run.loader, run.val_loader).epochs

    # an epoch takes 8 * 0.25 + 2 + 0.5 s; timing it takes 2 steps, 2 or 8 more, and a batch twice: 5 or 6.5 s
    assert (epochs(1.05), epochs(0.6), epochs(0.05)) == (12, 6, 1)
    assert "an epoch takes 4.50 s: 12 fit into 1.05 min; --epochs 12 repeats this run" in caplog.text
    assert "1 is the least, longer than 0.05 min; --epochs 1 repeats this run" in caplog.text
    assert len(run.validate().labels) == 75  # all of them again


def test_timing_does_not_diverge_where_training_does_without_a_warm_up(images):
    run = make_run(images, arch="lenet-slim", optimizer="sgd", lr=100.0)
    fit_epochs(1.0, run.config, run.model, run.loss_fn, run.loader, run.val_loader)
    with pytest.raises(DivergedError):
        run.epochs(1)


def test_one_cycle_rises_to_the_learning_rate_and_falls_to_nearly_nothing_over_all_steps():
    rates = rates_of("one-cycle")
    top = rates.index(max(rates))
    assert max(rates) == pytest.approx(0.01) and 25 <= top <= 35
    assert rates[:top] == sorted(rates[:top]) and rates[top:] == sorted(rates[top:], reverse=True)
    assert rates[0] < 0.001 and rates[-1] < 1e-5


def test_a_constant_learning_rate_needs_no_scheduler():
    optimizer = build_optimizer(nn.Linear(2, 2).parameters(), TrainConfig())
    assert build_scheduler(optimizer, TrainConfig(), 10) is None


def test_label_smoothing_spreads_the_target_over_all_classes():
    log_probs = torch.randn(8, 10).log_softmax(dim=1)
    labels = torch.arange(8)
    target = torch.full((8, 10), 0.1 / 10)
    target[torch.arange(8), labels] += 0.9
    smoothed = build_loss(TrainConfig(label_smoothing=0.1))(log_probs, labels)
    torch.testing.assert_close(smoothed, -(target * log_probs).sum())
    torch.testing.assert_close(build_loss(TrainConfig())(log_probs, labels), -log_probs[range(8), labels].sum())


def test_weight_decay_pulls_weights_to_zero_with_every_optimizer():
    for name in OPTIMIZERS:
        weight = nn.Parameter(torch.ones(3))
        optimizer = build_optimizer([weight], TrainConfig(optimizer=name, weight_decay=0.5, lr=0.1))
        for _ in range(5):
            weight.grad = torch.zeros(3)
            optimizer.step()
        assert 0 < weight[0].item() < 1 and math.isfinite(weight[0].item()), name


def test_precision_is_resolved_for_each_run_and_logged_once(monkeypatch, caplog):
    caplog.set_level("INFO")
    monkeypatch.setattr("neural_lib.system.devices.computes_bfloat16", lambda device: False)
    monkeypatch.setattr(loop, "computes_bfloat16", lambda device: False)
    configs = [TrainConfig(precision=precision) for precision in ("auto", "bf16", "auto")]
    assert [each.precision for each in resolve_precision(configs, torch.device("cpu"))] == ["fp32", "bf16", "fp32"]
    assert [record.levelname for record in caplog.records] == ["INFO", "INFO", "WARNING"]
    assert "precision: fp32 (the cpu is not known to compute bf16 natively)" in caplog.text
    assert "--precision bf16: the cpu is not known to compute bf16 natively; fp32 may be faster" in caplog.text
