import csv
import math

import pytest
import torch
from torch import nn

from neural_lib.board import Board
from neural_lib.errors import UserError
from neural_lib.evaluation import Evaluation
from neural_lib.results import read_json
from neural_lib.runs import RunBuilder, RunManager
from neural_lib.tables import runs_table


def test_a_run_for_each_combination_the_last_name_varying_fastest():
    runs = RunBuilder.get_runs({"lr": [0.01, 0.001], "batch_size": [100, 1000]})
    assert [tuple(run) for run in runs] == [(0.01, 100), (0.01, 1000), (0.001, 100), (0.001, 1000)]
    assert str(runs[1]) == "Run(lr=0.01, batch_size=1000)" and runs[2].lr == 0.001


def test_no_values_at_all_are_one_run():
    assert [tuple(run) for run in RunBuilder.get_runs({})] == [()]


@pytest.mark.parametrize("params, message", [
    ({"lr": []}, "--lr needs at least one value"),
    ({"batch_size": [64, 32, 64]}, "--batch-size 64 is given twice"),
    ({"lr": [0.1, 1e-1]}, "--lr 0.1 is given twice"),
])  # fmt: skip
def test_an_empty_or_repeated_value_is_refused_with_its_option(params, message):
    with pytest.raises(UserError, match=message):
        RunBuilder.get_runs(params)


class Diary(Board):
    """Notes what it is told."""

    def __init__(self) -> None:
        self.said = []

    def begin_run(self, label, hyperparameters, network=None, loader=None, optimizer=None, done=0):
        self.said.append(("begin", dict(label)))

    def end_epoch(self, epoch, count, measures, val=None, is_best=True):
        self.said.append((epoch, count))

    def end_run(self, best):
        self.said.append(("end", best["epoch"]))

    def close(self):
        self.said.append("close")


class Clock:
    """A second passes each time that it is read."""

    time = 0

    def __call__(self) -> int:
        self.time += 1
        return self.time


@pytest.fixture
def images() -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Two batches, the last one shorter."""
    generator = torch.Generator().manual_seed(0)
    return [(torch.rand(count, 4, generator=generator), torch.arange(count) % 3) for count in (8, 3)]


def test_an_own_loop_is_recorded_with_losses_weighted_by_images(tmp_path, images):
    diary = Diary()
    manager = RunManager({"lr": [0.1, 0.2]}, tmp_path, board=diary, now=Clock())
    expected = []
    for run in manager.runs:
        torch.manual_seed(0)
        network = nn.Sequential(nn.Linear(4, 3), nn.LogSoftmax(dim=1))
        with manager.run(run, network, images):
            for _ in range(2):
                losses, right = [], 0
                with manager.epoch():
                    for inputs, labels in images:
                        log_probs = network(inputs * run.lr)
                        manager.track_loss(nn.functional.nll_loss(log_probs, labels), len(labels))
                        manager.track_num_correct(log_probs, labels)
                        losses += nn.functional.nll_loss(log_probs, labels, reduction="none").tolist()
                        right += (log_probs.argmax(1) == labels).sum().item()
                expected.append((sum(losses) / 11, right / 11))
    rows = manager.records.rows
    for row, figures in zip(rows, expected, strict=True):
        assert (row["train_loss"], row["train_accuracy"]) == pytest.approx(figures)
    assert [(row["run"], row["epoch"], row["lr"]) for row in rows] == [
        (1, 1, 0.1),
        (1, 2, 0.1),
        (2, 1, 0.2),
        (2, 2, 0.2),
    ]
    assert [(row["epoch_duration"], row["run_duration"]) for row in rows] == [(1, 2), (1, 4), (1, 2), (1, 4)]
    assert manager.records.finished == [1, 2] and manager.unfinished() == []
    assert diary.said == [
        *(("begin", {"lr": 0.1}), (1, 11), (2, 11), ("end", 1)),
        *(("begin", {"lr": 0.2}), (1, 11), (2, 11), ("end", 1)),
    ]
    assert len(list(csv.DictReader((tmp_path / "results.csv").open()))) == 4


def one_epoch(manager, accuracy: float, loss: float = 0.25, f1: float = 0.5) -> None:
    manager.begin_epoch()
    manager.track_loss(torch.tensor(0.5), 2)
    manager.track_num_correct(torch.eye(2), torch.tensor([0, 1]))
    manager.track_validation(Evaluation(loss, accuracy, f1, *torch.zeros(3, 1).long()))
    manager.end_epoch()


def test_validation_is_what_a_run_is_judged_by(tmp_path):
    manager = RunManager({"lr": [0.1, 0.2]}, tmp_path)
    for run, accuracies in zip(manager.runs, ([0.5, 0.7], [0.6, 0.6]), strict=True):
        with manager.run(run):
            for accuracy in accuracies:
                one_epoch(manager, accuracy)
    assert (manager.records.best()["run"], manager.records.best()["epoch"]) == (1, 2)
    assert manager.records.best()["val_loss"] == 0.25 and manager.records.best()["train_accuracy"] == 1.0


@pytest.mark.parametrize("monitor, best_run", [("accuracy", 1), ("loss", 2), ("f1", 3)])
def test_what_is_monitored_decides_which_run_is_best(tmp_path, monitor, best_run):
    params = {"lr": [0.1, 0.2, 0.3]}
    hyperparameters = [{"lr": lr, "monitor": monitor} for lr in params["lr"]]
    manager = RunManager(params, tmp_path, hyperparameters)
    handed_on = []
    for run, scores in zip(manager.runs, ((0.9, 0.5, 0.6), (0.5, 0.2, 0.7), (0.6, 0.4, 0.8)), strict=True):
        with manager.run(run, on_best=lambda run=run: handed_on.append(run.lr)):
            one_epoch(manager, *scores)
    assert manager.records.best()["run"] == best_run
    assert handed_on[-1] == params["lr"][best_run - 1]


def test_what_was_not_tracked_or_is_no_number_is_nothing_in_the_records(tmp_path):
    manager = RunManager({}, tmp_path / "made" / "here")
    with manager.run(manager.runs[0]):
        for loss in (None, math.nan):
            with manager.epoch():
                if loss:
                    manager.track_loss(torch.tensor(loss), 2)
                manager.track_num_correct(torch.eye(2), torch.tensor([0, 1]))
    rows = read_json(tmp_path / "made" / "here" / "results.json")["rows"]
    assert [(row["train_loss"], row["val_accuracy"], row["train_accuracy"]) for row in rows] == [(None, None, 1.0)] * 2


@pytest.mark.parametrize("monitor", ["accuracy", "loss", "f1"])
@pytest.mark.parametrize("losses, best_epoch", [([0.5, 0.3, 0.4], 2), ([None, None], 1)])
def test_a_loop_that_tracks_less_is_recorded_and_compared_by_what_there_is(tmp_path, monitor, losses, best_epoch):
    hyperparameters = [{"seed": seed, "monitor": monitor} for seed in (1, 2)]
    manager = RunManager({"seed": [1, 2]}, tmp_path, hyperparameters)
    for run in manager.runs:
        with manager.run(run):
            for loss in losses:
                with manager.epoch():
                    if loss:
                        manager.track_loss(torch.tensor(loss), 10)
    assert manager.records.best()["epoch"] == best_epoch and manager.records.ranked() == [1, 2]
    assert runs_table(manager.records, 80).count("-  ") and manager.records.spreads() == []
    assert read_json(tmp_path / "results.json")["finished"] == [1, 2]


def test_a_run_that_fails_is_not_finished_and_its_reason_is_kept(tmp_path):
    diary = Diary()
    manager = RunManager({"lr": [0.1, 0.2]}, tmp_path, board=diary)
    first, second = manager.runs
    with pytest.raises(RuntimeError), manager.run(first):
        one_epoch(manager, 0.9)
        raise RuntimeError
    assert diary.said[-1] == "close"
    manager.fail_run(first, "it became nan")
    with manager.run(second):
        one_epoch(manager, 0.5)
    assert manager.records.failures == {1: "it became nan"} and manager.records.finished == [2]
    assert manager.records.best()["run"] == 2
    assert manager.unfinished() == [first]  # --resume tries it again
    with manager.run(first):
        one_epoch(manager, 0.9)
    assert manager.records.failures == {} and [row["run"] for row in manager.records.rows] == [1, 2]


def test_an_epoch_that_is_interrupted_leaves_no_row(tmp_path):
    manager = RunManager({}, tmp_path)
    with pytest.raises(KeyboardInterrupt), manager.run(manager.runs[0]), manager.epoch():
        raise KeyboardInterrupt
    assert manager.records.rows == [] and manager.records.finished == []


def saved_by(row: dict) -> tuple[dict, dict]:
    """Config and metrics of the checkpoint that belongs to a row."""
    metrics = {name: row[name] for name in ("epoch", "val_accuracy", "val_loss")}
    return {"lr": row["lr"]}, metrics | {"test_accuracy": 0.1}


@pytest.fixture
def resumed(tmp_path) -> RunManager:
    """Run 1 has finished; run 2, better, was interrupted after its last epoch; run 3 had not begun."""
    manager = RunManager({"lr": [0.1, 0.2, 0.3]}, tmp_path)
    with manager.run(manager.runs[0]):
        one_epoch(manager, 0.5)
    manager.begin_run(manager.runs[1])
    one_epoch(manager, 0.7)
    resumed = RunManager({"lr": [0.1, 0.2, 0.3]}, tmp_path)
    resumed.records.open(resume=True)
    return resumed


def test_the_best_network_is_handed_on_before_its_run_counts_as_finished(tmp_path):
    manager = RunManager({"lr": [0.1, 0.2, 0.3, 0.4]}, tmp_path)
    kept = []
    for run, accuracy in zip(manager.runs, [0.5, 0.7, 0.7, 0.6], strict=True):
        with manager.run(run, on_best=lambda: kept.append((manager.number, list(manager.records.finished)))):
            one_epoch(manager, accuracy)
    assert kept == [(1, []), (2, [1])]  # an equal one is no better
    assert manager.records.best()["run"] == 2


def test_whatever_fails_at_the_end_leaves_a_run_that_has_not_finished(tmp_path):
    class BadEnd(Board):
        def end_run(self, best):
            raise MemoryError

    kept = []
    manager = RunManager({}, tmp_path, board=BadEnd())
    with pytest.raises(MemoryError), manager.run(manager.runs[0], on_best=lambda: kept.append(1)):
        one_epoch(manager, 0.5)
    assert kept == [] and manager.records.finished == []


def test_a_saved_network_of_a_finished_run_is_taken_over(resumed):
    assert resumed.take_over(*saved_by(resumed.records.rows[0])) == 1
    assert [run.lr for run in resumed.unfinished()] == [0.2, 0.3]


def test_a_run_interrupted_after_its_network_was_saved_has_finished(resumed):
    assert resumed.take_over(*saved_by(resumed.records.rows[1])) == 2
    assert [run.lr for run in resumed.unfinished()] == [0.3]
    assert resumed.records.best()["run"] == 2


def test_a_network_of_a_run_that_is_not_the_best_is_refused(resumed):
    worse = resumed.records.rows[0]
    resumed.take_over(*saved_by(resumed.records.rows[1]))
    with pytest.raises(UserError, match="is the network of run 1, and of those in .* run 2 is best"):
        resumed.take_over(*saved_by(worse))


@pytest.mark.parametrize("config, metrics", [({"lr": 0.4}, {}), ({}, {"val_accuracy": 0.51}), ({}, {"epoch": 9})])
def test_another_network_is_refused(resumed, config, metrics):
    own_config, own_metrics = saved_by(resumed.records.rows[0])
    with pytest.raises(UserError, match="--resume: .* is not the network of"):
        resumed.take_over(own_config | config, own_metrics | metrics)


def test_save_writes_both_files(tmp_path):
    manager = RunManager({"lr": [0.1]}, tmp_path)
    manager.save()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["results.csv", "results.json"]
