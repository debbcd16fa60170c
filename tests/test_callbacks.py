import logging
from types import SimpleNamespace

import pytest
import torch

from neural_lib.callbacks import BestEpoch, EarlyStopping, Progress
from neural_lib.evaluation import Evaluation


def validation(loss: float, accuracy: float, f1: float = 0.5) -> Evaluation:
    return Evaluation(loss, accuracy, f1, *torch.zeros(3, 0))


def end_epochs(callback, val_accs, after=lambda epoch: None):
    for epoch, accuracy in enumerate(val_accs, start=1):
        train = SimpleNamespace(loss=1 / epoch, accuracy=accuracy)
        callback.on_epoch_end(epoch, train, validation(2 / epoch, accuracy))
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


EPOCHS = [validation(0.9, 0.6, 0.5), validation(0.5, 0.7, 0.6), validation(0.7, 0.8, 0.7), validation(0.8, 0.75, 0.8)]


@pytest.mark.parametrize("monitor, best_epoch", [("accuracy", 3), ("loss", 2), ("f1", 4)])
def test_what_is_monitored_decides_which_epoch_is_best(monitor, best_epoch):
    best = BestEpoch(torch.nn.Linear(1, 1), monitor)
    for epoch, val in enumerate(EPOCHS, start=1):
        best.on_epoch_end(epoch, SimpleNamespace(loss=1.0, accuracy=0.5), val)
    assert best.epoch == best.metrics["epoch"] == best_epoch
    assert best.metrics["val_f1"] == EPOCHS[best_epoch - 1].f1


@pytest.mark.parametrize("val_accs, patience, ended", [
    ([0.5, 0.6, 0.6, 0.6, 0.9], 2, 4),
    ([0.5, 0.6, 0.6, 0.7, 0.7, 0.1, 0.9], 2, 6),
    ([0.5, 0.4, 0.3, 0.2], 0, None),
    ([0.5, 0.4, 0.3], 1, 2),
    ([0.5, 0.4], 1, None),  # the last epoch there is ends nothing early
])  # fmt: skip
def test_patience_is_over_when_so_many_epochs_were_no_better(val_accs, patience, ended, caplog):
    best = BestEpoch(torch.nn.Linear(1, 1))
    stopping = EarlyStopping(best, patience, len(val_accs))
    stopped = []

    def on_epoch_end(*arguments):
        best.on_epoch_end(*arguments)
        stopping.on_epoch_end(*arguments)

    with caplog.at_level(logging.INFO):
        end_epochs(SimpleNamespace(on_epoch_end=on_epoch_end), val_accs, lambda epoch: stopped.append(stopping.stop))
    assert stopped.index(True) + 1 == ended if ended else not any(stopped)
    assert (f"ending early, after {ended} of {len(val_accs)} epochs" in caplog.text) is bool(ended)


def test_f1_is_told_where_it_is_what_counts(caplog):
    with caplog.at_level(logging.INFO), Progress(epochs=10, train_size=100, with_f1=True) as progress:
        progress.on_epoch_begin(1)
        end_epochs(progress, [0.8874])
    assert "Val accuracy: 0.8874, Val macro F1: 0.5000\n" in caplog.messages[0]
