"""The optimizers, the learning-rate schedules and the losses."""

import copy
import math

import pytest
import torch
from torch import nn

from neural_lib.config import OPTIMIZERS, TrainConfig
from neural_lib.training.optim import Muon, build_loss, build_optimizer, build_scheduler, orthogonalised


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


@pytest.mark.few(4)
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


@pytest.mark.parametrize("name, arguments", [
    ("torch.optim.RMSprop", {}), ("torch.optim.Adagrad", {}), ("torch.optim.SGD", {"momentum": 0.0}),
])  # fmt: skip
def test_a_schedule_adds_no_momentum_to_an_optimizer_without(monkeypatch, name, arguments):
    monkeypatch.setitem(OPTIMIZERS, "other", (name, arguments))
    config = TrainConfig(optimizer="other", schedule="one-cycle", epochs=2)
    optimizer = build_optimizer(nn.Linear(2, 2).parameters(), config)
    scheduler = build_scheduler(optimizer, config, steps_per_epoch=5)
    for _ in range(10):
        assert optimizer.param_groups[0].get("momentum", 0) == 0
        optimizer.step()
        scheduler.step()


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
