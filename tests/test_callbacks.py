import logging
from types import SimpleNamespace

import pytest
import torch

from neural_lib.callbacks import BestEpoch, Progress
from neural_lib.evaluation import Evaluation


def end_epochs(callback, val_accs, after=lambda epoch: None):
    for epoch, accuracy in enumerate(val_accs, start=1):
        train = SimpleNamespace(loss=1 / epoch, accuracy=accuracy)
        callback.on_epoch_end(epoch, train, Evaluation(2 / epoch, accuracy, torch.zeros(0), torch.zeros(0)))
        after(epoch)


@pytest.mark.parametrize("val_accs, best_epoch, improved", [
    ([0.5, 0.9, 0.8], 2, [1, 2]),
    ([0.5, 0.9, 0.9], 2, [1, 2]),  # the earliest of equals
    ([0.0], 1, [1]),
])  # fmt: skip
def test_the_best_epochs_weights_are_kept(val_accs, best_epoch, improved):
    model, told = torch.nn.Linear(1, 1), []
    best = BestEpoch(model, on_improved=lambda _, metrics: told.append(metrics["epoch"]))
    weights = {}

    def train(epoch):
        weights[epoch] = model.weight.item()
        with torch.no_grad():
            model.weight += 1  # later training must not reach into the copy

    end_epochs(best, val_accs, after=train)
    assert best.epoch == best_epoch and told == improved
    assert best.state_dict["weight"].item() == weights[best_epoch]
    assert best.metrics["epoch"] == best_epoch and best.metrics["val_accuracy"] == val_accs[best_epoch - 1]


def test_an_epoch_is_told_in_the_tutorials_form(caplog, capfd):
    with caplog.at_level(logging.INFO), Progress(epochs=10, train_size=100) as progress:
        progress.on_epoch_begin(1)
        end_epochs(progress, [0.8874])
    assert caplog.messages == [
        "EPOCH: 1/10\nTrain loss: 1.000000, Train accuracy: 0.8874\nVal loss: 2.000000, Val accuracy: 0.8874\n"
    ]
    assert capfd.readouterr().err == ""  # no bar: stderr is no terminal here
