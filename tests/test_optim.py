import math

import pytest
import torch
from torch import nn

from neural_lib.config import TrainConfig
from neural_lib.training import build_loss, build_optimizer, build_scheduler

OPTIMIZERS = ("adam", "adamw", "sgd")


@pytest.mark.parametrize(
    "name, kind", [("adam", torch.optim.Adam), ("adamw", torch.optim.AdamW), ("sgd", torch.optim.SGD)]
)
def test_optimizers_are_torchs_own_with_the_configs_values(name, kind):
    optimizer = build_optimizer(nn.Linear(2, 2).parameters(), TrainConfig(optimizer=name, lr=0.02, weight_decay=0.03))
    group = optimizer.param_groups[0]
    assert type(optimizer) is kind
    assert (group["lr"], group["weight_decay"], group["fused"]) == (0.02, 0.03, True)
    assert name != "sgd" or (group["momentum"], group["nesterov"]) == (0.9, True)


@pytest.mark.parametrize("name", OPTIMIZERS)
@pytest.mark.parametrize("schedule", ["constant", "one-cycle"])
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


def test_one_cycle_rises_to_the_learning_rate_and_falls_to_nearly_nothing_over_all_steps():
    config = TrainConfig(schedule="one-cycle", lr=0.01, epochs=5)
    optimizer = build_optimizer(nn.Linear(2, 2).parameters(), config)
    scheduler = build_scheduler(optimizer, config, steps_per_epoch=20)
    rates = []
    for _ in range(100):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
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
