import logging
from types import SimpleNamespace

import pytest
import torch

from neural_lib import callbacks
from neural_lib.callbacks import BestEpoch, EarlyStopping, EpochTable, Progress
from neural_lib.config import TrainConfig
from neural_lib.evaluation import Evaluation
from neural_lib.results import MEASURES
from neural_lib.tables import epoch_row, epochs_heading


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


def rows_told(caplog, config, val_accs, is_saved=lambda: True) -> list[str]:
    """What the table says of these epochs."""
    best = BestEpoch(torch.nn.Linear(1, 1), config.monitor)
    measures = []
    manager = SimpleNamespace(measures=lambda: measures)
    table = EpochTable(config, manager, best, is_saved)

    def on_epoch_end(epoch, train, val):
        measures.append({
            "train_loss": train.loss, "train_accuracy": train.accuracy, "val_loss": val.loss, "val_f1": val.f1,
            "val_accuracy": val.accuracy, "epoch_duration": 5.25,
        })  # fmt: skip
        best.on_epoch_end(epoch, train, val)
        table.on_epoch_end(epoch, train, val)

    with caplog.at_level(logging.INFO):
        end_epochs(SimpleNamespace(on_epoch_end=on_epoch_end), val_accs)
    return caplog.messages


def test_an_epoch_is_a_row_and_the_best_so_far_has_a_star(caplog):
    assert rows_told(caplog, TrainConfig(epochs=10), [0.8874, 0.5, 0.9]) == [
        "     epoch   train loss  train acc   val loss   val acc   seconds",
        "      1/10       1.0000     0.8874     2.0000    0.8874       5.2  *",
        "      2/10       0.5000     0.5000     1.0000    0.5000       5.2",
        "      3/10       0.3333     0.9000     0.6667    0.9000       5.2  *",
    ]


def test_what_could_not_be_saved_has_no_star(caplog):
    assert not any("*" in row for row in rows_told(caplog, TrainConfig(), [0.5, 0.9], is_saved=lambda: False))


def test_f1_is_a_column_where_it_is_what_counts(caplog):
    heading, *rows = rows_told(caplog, TrainConfig(monitor="f1"), [0.8874])
    assert heading.split("  ")[-2:] == [" val f1", " seconds"] and rows[0].split()[5] == "0.5000"
    assert max(map(len, (heading, *rows))) <= 80


def test_a_loss_beyond_all_measure_stays_in_its_column():
    measures = dict.fromkeys(("train_loss", "val_loss"), 123456.789) | dict.fromkeys(MEASURES[1:], 0.5)
    measures |= {"train_loss": 123456.789, "val_loss": None}
    assert len(epoch_row(1, 10, measures)) == len(epochs_heading())


def test_the_time_left_is_told_for_the_epoch_and_for_the_run(monkeypatch, capfd):
    now = iter(range(100))  # a second from one look to the next
    monkeypatch.setattr(callbacks.time, "perf_counter", lambda: float(next(now)))
    with Progress(epochs=3, train_size=100) as progress:
        progress.on_epoch_begin(1)
        told = []
        progress.bar = SimpleNamespace(
            n=0, update=lambda _: True, close=lambda: None, set_postfix_str=lambda text, refresh: told.append(text)
        )
        for count in (20, 40):
            progress.on_batch_end(SimpleNamespace(count=count, loss=0.25, accuracy=0.75))
    # 20 images a second: 60 are left of this epoch, and two epochs of 5 s each
    assert told == ["loss 0.250, acc 0.750", "00:03 left, run 00:13, loss 0.250, acc 0.750"]
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
