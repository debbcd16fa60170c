import math

import made_up
import pytest
import torch
from torch import nn

from neural_lib.config import TrainConfig
from neural_lib.evaluation import evaluate
from neural_lib.loaders import ImageTensors, Normalisation, make_loader, split
from neural_lib.models import build_model
from neural_lib.training import FINITE_CHECK_STEPS, Callback, NonFiniteLossError, fit, train_one_epoch

NORMALISE = Normalisation((0.2,), (0.3,))


@pytest.fixture
def images() -> ImageTensors:
    pixels, labels = made_up.make_images(300, seed=0)
    return ImageTensors(torch.from_numpy(pixels).unsqueeze(1), torch.from_numpy(labels).long())


def make_run(images, seed=42, lr=1e-3):
    torch.manual_seed(seed)
    train_set, val_set = split(images, TrainConfig(seed=seed, batch_size=32))
    model = build_model("lenet", numChannels=1, classes=10)
    optimizer = torch.optim.Adam(model.parameters(), lr=lr, fused=True)
    loaders = make_loader(train_set, 32, NORMALISE, shuffle_seed=seed), make_loader(val_set, 32, NORMALISE)
    return model, *loaders, nn.NLLLoss(), optimizer


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
                evaluate(model, val_loader)
        weights.append(model.state_dict())
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])


def test_dropout_and_the_like_are_on_in_training_and_off_in_evaluation(images):
    model, train_loader, val_loader, loss_fn, optimizer = make_run(images)
    train_one_epoch(model, train_loader, loss_fn, optimizer)
    assert model.training
    evaluate(model, val_loader)
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
    loader = make_loader(images, 2, NORMALISE, shuffle_seed=0)  # 150 steps
    loss_fn = LossThatBreaks(at)
    with pytest.raises(NonFiniteLossError) as caught:
        train_one_epoch(model, loader, loss_fn, optimizer)
    assert caught.value.step == at
    assert loss_fn.calls < at + FINITE_CHECK_STEPS


def test_fit_tells_the_epoch_of_a_nan_loss(images):
    model, train_loader, val_loader, _, optimizer = make_run(images)
    with pytest.raises(NonFiniteLossError, match="training loss became nan at epoch 2, step 3"):
        fit(model, train_loader, val_loader, LossThatBreaks(len(train_loader) + 3), optimizer, epochs=3)


def test_a_nan_validation_is_no_finished_epoch(images):
    # nothing but the last step ruins the weights: its own loss was still a number
    model, train_loader, val_loader, loss_fn, optimizer = make_run(images)
    told = []

    class Ruin(Callback):
        def on_batch_end(self, scores):
            if scores.count == len(train_loader.dataset):
                model.fc2.bias.data[0] = math.nan

        def on_epoch_end(self, epoch, train, val):
            told.append(epoch)

    with pytest.raises(NonFiniteLossError, match="validation loss became nan at epoch 1"):
        fit(model, train_loader, val_loader, loss_fn, optimizer, epochs=1, callbacks=[Ruin()])
    assert told == []


def test_a_scheduler_steps_after_each_batch(images):
    model, train_loader, val_loader, loss_fn, optimizer = make_run(images)
    rates = []

    class Recorder(Callback):
        def on_batch_end(self, scores):
            rates.append(scheduler.get_last_lr()[0])

    scheduler = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.5, total_iters=16)
    fit(model, train_loader, val_loader, loss_fn, optimizer, 2, scheduler, callbacks=[Recorder()])
    assert len(rates) == 16  # 8 batches an epoch
    assert rates == sorted(rates, reverse=True) and rates[-1] == pytest.approx(1e-3 / 2)


def test_bfloat16_is_for_the_layers_and_nothing_else(images):
    seen = {}
    model, train_loader, val_loader, loss_fn, optimizer = make_run(images)
    for name in ("conv1", "conv2", "fc1", "fc2", "logSoftmax"):
        getattr(model, name).register_forward_hook(lambda *args, name=name: seen.update({name: args[2].dtype}))
    for precision, dtype in (("bf16", torch.bfloat16), ("fp32", torch.float32)):
        train_one_epoch(model, train_loader, loss_fn, optimizer, precision=precision)
        in_training = seen.copy()
        evaluate(model, val_loader, precision)
        assert in_training == seen == dict.fromkeys(seen, dtype) | {"logSoftmax": torch.float32}
    assert all(weight.dtype == weight.grad.dtype == torch.float32 for weight in model.parameters())


def test_bfloat16_learns_as_well(images):
    assert fit(*make_run(images), epochs=4, precision="bf16").val_acc[-1] > 0.9


def test_callbacks_see_each_epoch_and_each_batch(images):
    seen = []

    class Recorder(Callback):
        def on_epoch_begin(self, epoch):
            seen.append(f"begin {epoch}")

        def on_batch_end(self, scores):
            seen.append(scores.count)

        def on_epoch_end(self, epoch, train, val):
            seen.append(f"end {epoch} {train.count} {len(val.labels)}")

    fit(*make_run(images), epochs=2, callbacks=[Recorder(), Callback()])
    batches = [32, 64, 96, 128, 160, 192, 224, 225]  # images so far; 225 of 300 are trained on
    assert seen == ["begin 1", *batches, "end 1 225 75", "begin 2", *batches, "end 2 225 75"]


def test_a_callback_can_end_training_after_an_epoch(images):
    class StopAfterTwo(Callback):
        def on_epoch_end(self, epoch, train, val):
            self.stop = epoch == 2

    seen = []
    other = Callback()
    other.on_epoch_end = lambda epoch, *_: seen.append(epoch)
    history = fit(*make_run(images), epochs=5, callbacks=[StopAfterTwo(), other])
    assert len(history.val_acc) == 2 and seen == [1, 2]  # those after it in the list see its last epoch, too
