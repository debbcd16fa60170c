import math

import made_up
import pytest
import torch
from torch import nn

from neural_lib.config import TrainConfig
from neural_lib.loaders import ImageTensors, Normalisation, make_loader, split
from neural_lib.models import build_model
from neural_lib.training import FINITE_CHECK_STEPS, Callback, NonFiniteLossError, evaluate, fit, train_one_epoch


@pytest.fixture
def images() -> ImageTensors:
    pixels, labels = made_up.make_images(300, seed=0)
    return ImageTensors(
        torch.from_numpy(pixels).unsqueeze(1), torch.from_numpy(labels).long(), Normalisation((0.2,), (0.3,))
    )


def make_run(images, seed=42, lr=1e-3):
    torch.manual_seed(seed)
    train_set, val_set = split(images, TrainConfig(seed=seed, batch_size=32))
    model = build_model("lenet", numChannels=1, classes=10)
    optimizer = torch.optim.Adam(model.parameters(), lr=lr, fused=True)
    return model, make_loader(train_set, 32, shuffle_seed=seed), make_loader(val_set, 32), nn.NLLLoss(), optimizer


def test_it_learns(images):
    history = fit(*make_run(images), epochs=4)
    assert history.val_acc[-1] > 0.9
    assert history.train_loss[-1] < history.train_loss[0] / 2
    assert [len(values) for values in vars(history).values()] == [4, 4, 4, 4]


def test_the_same_seed_gives_the_same_weights_bit_for_bit(images):
    weights = []
    for seed in (1, 1, 2):
        run = make_run(images, seed)
        fit(*run, epochs=2)
        weights.append(run[0].state_dict())
    first, again, other = weights
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not any(torch.equal(first[name], other[name]) for name in first)


def test_evaluating_changes_neither_weights_nor_what_is_learned_next(images):
    weights = []
    for evaluations in (0, 3):
        model, train_loader, val_loader, loss_fn, optimizer = make_run(images)
        model = nn.Sequential(model, nn.Dropout(0.2))  # which draws from torch's default generator
        for _ in range(2):
            train_one_epoch(model, train_loader, loss_fn, optimizer)
            for _ in range(evaluations):
                evaluate(model, val_loader, loss_fn)
        weights.append(model.state_dict())
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])


def test_evaluate_scores_every_image_once_whatever_the_batch_size(images):
    model, *_, loss_fn, _ = make_run(images)
    whole, odd = (evaluate(model, make_loader(images, size), loss_fn) for size in (300, 7))
    assert torch.equal(odd.labels, images.labels)
    assert torch.equal(odd.predictions, whole.predictions)
    assert odd.accuracy == whole.accuracy == (whole.predictions == whole.labels).double().mean().item()
    assert odd.loss == pytest.approx(whole.loss, rel=1e-5)


def test_dropout_and_the_like_are_on_in_training_and_off_in_evaluation(images):
    model, train_loader, val_loader, loss_fn, optimizer = make_run(images)
    train_one_epoch(model, train_loader, loss_fn, optimizer)
    assert model.training
    evaluate(model, val_loader, loss_fn)
    assert not model.training


class LossThatBreaks(nn.NLLLoss):
    """NaN at the n-th call, counted from 1, and an honest loss before it."""

    def __init__(self, at: int) -> None:
        super().__init__()
        self.calls, self.at = 0, at

    def forward(self, log_probs, labels):
        self.calls += 1
        return super().forward(log_probs, labels) * (math.nan if self.calls == self.at else 1)


@pytest.mark.parametrize("at", [1, FINITE_CHECK_STEPS, FINITE_CHECK_STEPS + 1])
def test_a_nan_loss_is_told_with_its_step_soon_after(images, at):
    model, _, _, _, optimizer = make_run(images)
    loader = make_loader(images, 2, shuffle_seed=0)  # 150 steps
    loss_fn = LossThatBreaks(at)
    with pytest.raises(NonFiniteLossError) as caught:
        train_one_epoch(model, loader, loss_fn, optimizer)
    assert caught.value.step == at
    assert loss_fn.calls < at + FINITE_CHECK_STEPS


def test_fit_tells_the_epoch_of_a_nan_loss(images):
    model, train_loader, val_loader, _, optimizer = make_run(images)
    calls_per_epoch = len(train_loader) + len(val_loader)
    with pytest.raises(NonFiniteLossError, match="training loss became nan at epoch 2, step 3"):
        fit(model, train_loader, val_loader, LossThatBreaks(calls_per_epoch + 3), optimizer, epochs=3)


def test_a_nan_validation_is_no_finished_epoch(images):
    # nothing but the last step ruins the weights: its own loss was still a number
    model, train_loader, val_loader, _, optimizer = make_run(images)
    told = []

    class Recorder(Callback):
        def on_epoch_end(self, epoch, history):
            told.append(epoch)

    loss_fn = LossThatBreaks(len(train_loader) + 1)
    with pytest.raises(NonFiniteLossError, match="validation loss became nan at epoch 1"):
        fit(model, train_loader, val_loader, loss_fn, optimizer, epochs=1, callbacks=[Recorder()])
    assert told == []


def test_callbacks_see_each_epoch_and_each_batch(images):
    seen = []

    class Recorder(Callback):
        def on_epoch_begin(self, epoch):
            seen.append(f"begin {epoch}")

        def on_batch_end(self, scores):
            seen.append(scores.count)

        def on_epoch_end(self, epoch, history):
            seen.append(f"end {epoch} {len(history.val_acc)}")

    fit(*make_run(images), epochs=2, callbacks=[Recorder(), Callback()])
    batches = [32, 64, 96, 128, 160, 192, 224, 225]  # images so far; 225 of 300 are trained on
    assert seen == ["begin 1", *batches, "end 1 1", "begin 2", *batches, "end 2 2"]
