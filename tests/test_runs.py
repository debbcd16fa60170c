import csv
import math
import statistics

import pytest
import torch
from torch import nn

from neural_lib.board import Board
from neural_lib.errors import UserError
from neural_lib.evaluation import Evaluation
from neural_lib.results import MEASURES, read_json
from neural_lib.runs import RunBuilder, RunManager, read_results
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
    rows = manager.rows
    for row, figures in zip(rows, expected, strict=True):
        assert (row["train_loss"], row["train_accuracy"]) == pytest.approx(figures)
    assert [(row["run"], row["epoch"], row["lr"]) for row in rows] == [
        (1, 1, 0.1),
        (1, 2, 0.1),
        (2, 1, 0.2),
        (2, 2, 0.2),
    ]
    assert [(row["epoch_duration"], row["run_duration"]) for row in rows] == [(1, 2), (1, 4), (1, 2), (1, 4)]
    assert manager.finished == [1, 2] and manager.unfinished() == []
    assert diary.said == [
        *(("begin", {"lr": 0.1}), (1, 11), (2, 11), ("end", 1)),
        *(("begin", {"lr": 0.2}), (1, 11), (2, 11), ("end", 1)),
    ]
    assert len(list(csv.DictReader((tmp_path / "results.csv").open()))) == 4


def one_epoch(manager, accuracy: float, loss: float = 0.25, f1: float = 0.5) -> None:
    with manager.epoch():
        manager.track_loss(torch.tensor(0.5), 2)
        manager.track_num_correct(torch.eye(2), torch.tensor([0, 1]))
        manager.track_validation(Evaluation(loss, accuracy, f1, *torch.zeros(3, 1).long()))


def test_validation_is_what_a_run_is_judged_by(tmp_path):
    manager = RunManager({"lr": [0.1, 0.2]}, tmp_path)
    for run, accuracies in zip(manager.runs, ([0.5, 0.7], [0.6, 0.6]), strict=True):
        with manager.run(run):
            for accuracy in accuracies:
                one_epoch(manager, accuracy)
    assert (manager.best()["run"], manager.best()["epoch"]) == (1, 2)
    assert manager.best()["val_loss"] == 0.25 and manager.best()["train_accuracy"] == 1.0


@pytest.mark.parametrize("monitor, best_run", [("accuracy", 1), ("loss", 2), ("f1", 3)])
def test_what_is_monitored_decides_which_run_is_best(tmp_path, monitor, best_run):
    params = {"lr": [0.1, 0.2, 0.3]}
    manager = RunManager(params, tmp_path, [{"lr": lr, "monitor": monitor} for lr in params["lr"]])
    for run, scores in zip(manager.runs, ((0.9, 0.5, 0.6), (0.5, 0.2, 0.7), (0.6, 0.4, 0.8)), strict=True):
        with manager.run(run):
            one_epoch(manager, *scores)
    assert manager.best()["run"] == best_run == manager.ranked()[0]


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
    assert manager.best()["epoch"] == best_epoch and manager.ranked() == [1, 2]
    assert runs_table(manager, 80).count("-  ") and manager.spreads() == []
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
    assert manager.failures == {1: "it became nan"} and manager.finished == [2]
    assert manager.best()["run"] == 2
    assert manager.unfinished() == [first]  # --resume tries it again
    with manager.run(first):
        one_epoch(manager, 0.9)
    assert manager.failures == {} and [row["run"] for row in manager.rows] == [1, 2]


def test_an_epoch_that_is_interrupted_leaves_no_row(tmp_path):
    manager = RunManager({}, tmp_path)
    with pytest.raises(KeyboardInterrupt), manager.run(manager.runs[0]), manager.epoch():
        raise KeyboardInterrupt
    assert manager.rows == [] and manager.finished == []


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
    manager.save()
    resumed = RunManager({"lr": [0.1, 0.2, 0.3]}, tmp_path)
    resumed.take_over(read_json(tmp_path / "results.json"))
    return resumed


def test_an_equal_run_is_no_better(tmp_path):
    manager = RunManager({"lr": [0.1, 0.2, 0.3, 0.4]}, tmp_path)
    better = []
    for run, accuracy in zip(manager.runs, [0.5, 0.7, 0.7, 0.6], strict=True):
        with manager.run(run):
            one_epoch(manager, accuracy)
            if manager.is_best(manager.number):
                better.append(manager.number)
    assert better == [1, 2] and manager.best()["run"] == 2


def test_a_board_that_fails_leaves_a_run_that_has_not_finished(tmp_path):
    class BadEnd(Board):
        def end_run(self, best):
            raise MemoryError

    manager = RunManager({}, tmp_path, board=BadEnd())
    with pytest.raises(MemoryError), manager.run(manager.runs[0]):
        one_epoch(manager, 0.5)
    assert manager.finished == []


def test_a_saved_network_of_a_finished_run_is_adopted(resumed):
    assert resumed.adopt(*saved_by(resumed.rows[0])) == 1
    assert [run.lr for run in resumed.unfinished()] == [0.2, 0.3]


def test_a_run_interrupted_after_its_network_was_saved_has_finished(resumed):
    assert resumed.adopt(*saved_by(resumed.rows[1])) == 2
    assert [run.lr for run in resumed.unfinished()] == [0.3]
    assert resumed.best()["run"] == 2


def test_a_network_of_a_run_that_is_not_the_best_is_refused(resumed):
    worse = resumed.rows[0]
    resumed.adopt(*saved_by(resumed.rows[1]))
    with pytest.raises(UserError, match="is the network of run 1, and of those in .* run 2 is best"):
        resumed.adopt(*saved_by(worse))


@pytest.mark.parametrize("config, metrics", [
    ({"lr": 0.9}, {"epoch": 1, "val_accuracy": 0.5, "val_loss": 0.25}),
    ({"lr": 0.1}, {"epoch": 1, "val_accuracy": 0.4, "val_loss": 0.25}),
    ({"lr": 0.1}, {}),
])  # fmt: skip
def test_another_network_is_refused(resumed, config, metrics):
    with pytest.raises(UserError, match="--model is not the network of a run in .*results.json"):
        resumed.adopt(config, metrics)


# --- the files ---


@pytest.mark.parametrize("runs, epochs_written", [(1, [1, 2]), (2, [])])
def test_the_files_are_written_after_a_run_and_of_a_run_alone_after_each_epoch(tmp_path, runs, epochs_written):
    written = []
    manager = RunManager({"seed": list(range(runs))}, tmp_path, write=lambda path, make: written.append(path.name))
    for run in manager.runs:
        for path in (manager.begin_run(run), *range(2)):
            if path is not None:
                one_epoch(manager, 0.5)
        before = len(written)
        manager.end_run()
        assert written[before:] == ["results.csv", "results.json"]
    assert len(written) == 2 * (len(epochs_written) + runs)


def test_both_files_hold_every_row_and_every_failure(tmp_path):
    manager = RunManager({"lr": [0.1, 0.2], "shuffle": [True]}, tmp_path, options={"recipe": "best"})
    with manager.run(manager.runs[0]):
        one_epoch(manager, 0.5)
        one_epoch(manager, 0.7)
    manager.fail_run(manager.runs[1], "it became nan")
    *rows, failed = csv.DictReader((tmp_path / "results.csv").open())
    content = read_json(tmp_path / "results.json")
    for text, row in zip(rows, content["rows"], strict=True):
        assert list(text) == ["run", "epoch", *MEASURES, "lr", "shuffle", "failure"]
        assert {name: text[name] for name in row} == {name: str(value) for name, value in row.items()}
    assert (failed["run"], failed["epoch"], failed["lr"], failed["failure"]) == ("2", "", "0.2", "it became nan")
    told = {"options": {"recipe": "best"}, "params": {"lr": [0.1, 0.2], "shuffle": [True]}, "tested": False}
    assert content.items() >= {**told, "finished": [1], "failures": {"2": "it became nan"}}.items()


def test_what_was_recorded_is_taken_over(tmp_path):
    params = {"lr": [0.1, 0.2]}
    manager = RunManager(params, tmp_path)
    with manager.run(manager.runs[1]):
        one_epoch(manager, 0.5)
    manager.fail_run(manager.runs[0], "out of memory")
    again = RunManager(params, tmp_path)
    again.take_over(read_json(tmp_path / "results.json"))
    assert (again.rows, again.finished, again.failures) == (manager.rows, [2], {1: "out of memory"})
    again.begin_run(again.runs[0])  # once more
    assert again.failures == {} and [row["run"] for row in again.rows] == [2]
    shown = read_results(tmp_path)
    assert (shown.rows, shown.swept, shown.best()["run"]) == (manager.rows, ["lr"], 2)


def test_without_a_folder_nothing_is_written(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    manager = RunManager({}, None)
    with manager.run(manager.runs[0]):
        one_epoch(manager, 0.5)
    assert manager.best()["val_accuracy"] == 0.5 and list(tmp_path.iterdir()) == []


def test_results_of_a_run_that_was_interrupted_can_be_looked_at(tmp_path):
    manager = RunManager({}, tmp_path)
    manager.begin_run(manager.runs[0])
    one_epoch(manager, 0.5)
    assert read_results(tmp_path).best()["epoch"] == 1
    assert read_results(tmp_path / "nowhere") is None


# --- hyper-parameters ---


def grid(folder, params=None, **values) -> RunManager:
    """A manager of runs whose hyper-parameters are in lists of equal length."""
    return RunManager(
        params or {}, folder, [dict(zip(values, each, strict=True)) for each in zip(*values.values(), strict=True)]
    )


def finish(manager, run: int, accuracy: float) -> None:
    manager.number = run
    row = dict.fromkeys(MEASURES, 0.5) | {"val_accuracy": accuracy, "val_loss": 1.0}
    manager.set_rows([row])
    manager.finished.append(run)


def test_runs_that_finished_with_another_precision_are_not_mixed_with_others(tmp_path):
    manager = RunManager({"lr": [0.1, 0.2]}, tmp_path, [{"precision": "auto", "lr": lr} for lr in (0.1, 0.2)])
    manager.resolve([{"precision": "bf16", "lr": lr} for lr in (0.1, 0.2)])
    finish(manager, 1, 0.5)
    with pytest.raises(UserError, match="run 1 was trained with precision=bf16, and here it would be precision=fp32"):
        manager.resolve([{"precision": "fp32", "lr": lr} for lr in (0.1, 0.2)])
    manager.resolve([{"precision": "bf16", "lr": lr} for lr in (0.1, 0.2)])


def test_runs_are_named_by_what_differs_and_of_that_by_what_was_asked_for(tmp_path):
    values = {"batch_size": [1, 1, 2], "lr": [0.1, 0.2, 0.3], "epochs": [3, 3, 3]}
    assert grid(tmp_path, **values).name(2) == "batch_size=1, lr=0.2"
    derived = grid(tmp_path, {"lr": [0.1, 0.2, 0.3]}, **values)  # batch_size is what a recipe has for that lr, say
    assert derived.name(3) == "lr=0.3" and derived.derived(3) == {"batch_size": 2}
    assert derived.common() == {"epochs": 3}
    assert grid(tmp_path, lr=[0.1]).name(1) == ""


def test_what_it_came_to_is_recorded_and_the_grid_stays_what_was_requested(tmp_path):
    manager = grid(tmp_path, {"precision": ["auto", "fp32"]}, precision=["auto", "fp32"], dataset=["kmnist"] * 2)
    manager.resolve([{"precision": each, "dataset": "digits"} for each in ("bf16", "fp32")])
    finish(manager, 1, 0.5)
    assert (manager.rows[0]["precision"], manager.rows[0]["dataset"]) == ("bf16", "digits")
    assert manager.name(1) == "precision=auto"
    assert manager.requested[0] == {"precision": "auto", "dataset": "digits"}


def test_mean_and_deviation_over_the_seeds(tmp_path):
    manager = grid(tmp_path, lr=[1, 1, 1, 2, 2, 3], seed=[1, 2, 3, 1, 2, 1])
    accuracies = [0.90, 0.92, 0.97, 0.5, 0.6, 0.4]
    for run, accuracy in enumerate(accuracies, start=1):
        if run != 5:
            finish(manager, run, accuracy)
    (spread,) = manager.spreads()  # of lr=2 one run has finished, and lr=3 has one seed alone
    assert spread.hyperparameters == {"lr": 1} and spread.count == 3
    assert spread.mean == pytest.approx(statistics.mean(accuracies[:3]))
    assert spread.deviation == pytest.approx(statistics.stdev(accuracies[:3]))


@pytest.mark.parametrize("values, name", [
    ({"arch": ["a", "b", "a"], "seed": [1, 2, 3]}, "seed"),
    ({"lr": [0.1, 0.2, 0.1], "seed": [1, 2, 3]}, "lr"),
    ({"lr": [0.1, 0.2, 0.3], "shuffle": [True, False, True]}, "lr"),
])  # fmt: skip
def test_many_runs_are_coloured_by_the_number_with_the_most_values(tmp_path, values, name):
    manager = grid(tmp_path, **values)
    manager.runs = [()] * 3
    assert manager.scale() == (name, dict(enumerate(values[name], start=1)))


def test_many_runs_that_differ_in_words_alone_are_coloured_by_what_they_reached(tmp_path):
    manager = grid(tmp_path, arch=["a", "b", "c"], shuffle=[True, False, True])
    for run, accuracy in ((1, 0.5), (3, 0.7)):
        finish(manager, run, accuracy)
    assert manager.scale() == ("best validation accuracy", {1: 0.5, 3: 0.7})


def test_no_hyper_parameter_can_have_a_columns_name(tmp_path):
    with pytest.raises(ValueError, match="the name of a column: epoch, val_loss"):
        grid(tmp_path, epoch=[1], val_loss=[1], lr=[1])
