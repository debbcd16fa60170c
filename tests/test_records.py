import csv
import statistics

import pytest

from neural_lib.errors import UserError
from neural_lib.records import MEASURES, Records
from neural_lib.results import read_json


def grid(**values) -> list[dict]:
    """Hyper-parameters of runs from lists of equal length."""
    return [dict(zip(values, each, strict=True)) for each in zip(*values.values(), strict=True)]


def measures(val_accuracy: float, val_loss: float = 1.0) -> dict:
    return dict.fromkeys(MEASURES, 0.5) | {"val_accuracy": val_accuracy, "val_loss": val_loss}


@pytest.fixture
def records(tmp_path) -> Records:
    """Three runs of which the first two have finished; the third is under way, and better."""
    records = Records(tmp_path, grid(lr=[0.1, 0.2, 0.3], seed=[1, 1, 1], shuffle=[True] * 3))
    for run, accuracies in ((1, [0.5, 0.7]), (2, [0.8, 0.6])):
        for epoch, accuracy in enumerate(accuracies, start=1):
            records.add(run, epoch, measures(accuracy))
        records.finish(run)
    records.add(3, 1, measures(0.9))
    return records


def again(records, **others) -> Records:
    """A new process's records of the same grid, or of one with other values."""
    values = {name: [run[name] for run in records.asked] for name in records.asked[0]} | others
    return Records(records.csv_path.parent, grid(**values))


def test_the_best_is_a_finished_runs_best_epoch(records):
    assert (records.best()["run"], records.best()["epoch"]) == (2, 1)
    assert records.best_of(1)["epoch"] == 2


def test_the_first_to_finish_of_equals_is_the_best(tmp_path):
    records = Records(tmp_path, grid(seed=[1, 2]))
    assert records.best() is None
    for run in (2, 1):  # run 1 had failed and was tried again
        for epoch in (1, 2):
            records.add(run, epoch, measures(0.5))
        records.finish(run)
    assert (records.best()["run"], records.best()["epoch"]) == (2, 1)
    resumed = again(records)
    resumed.open(resume=True)
    assert resumed.best()["run"] == 2


def test_a_run_that_finishes_after_all_has_not_failed(records):
    records.fail(3, "out of memory")
    records.finish(3)
    assert records.failures == {} and records.finished == [1, 2, 3]


def test_both_files_hold_every_row_after_every_change(records):
    rows = list(csv.DictReader(records.csv_path.open()))
    content = read_json(records.json_path)
    assert len(rows) == len(content["rows"]) == 5 and content["finished"] == [1, 2]
    for text, row in zip(rows, content["rows"], strict=True):
        assert list(text) == ["run", "epoch", *MEASURES, "lr", "seed", "shuffle", "failure"]
        assert {name: text[name] for name in row} == {name: str(value) for name, value in row.items()}
    records.fail(3, "it became nan")
    *_, last = csv.DictReader(records.csv_path.open())
    assert (last["run"], last["epoch"], last["lr"], last["failure"]) == ("3", "", "0.3", "it became nan")
    assert read_json(records.json_path)["failures"] == {"3": "it became nan"}


def test_what_was_recorded_is_taken_over(records):
    records.fail(3, "out of memory")
    resumed = again(records)
    resumed.open(resume=True)
    assert (resumed.rows, resumed.finished, resumed.failures) == (records.rows, [1, 2], {3: "out of memory"})
    resumed.discard(3)
    assert [row["run"] for row in resumed.rows] == [1, 1, 2, 2] and resumed.failures == {}


def test_nothing_recorded_is_a_beginning(tmp_path):
    records = Records(tmp_path, grid(lr=[0.1]))
    records.open(resume=True)
    assert records.rows == [] and list(tmp_path.iterdir()) == []


def test_another_grids_records_are_refused_with_the_difference(records):
    with pytest.raises(
        UserError, match=r"another command: --lr 0.1 0.2 0.3 there, 0.1 0.2 0.4 here; give the same one"
    ):
        again(records, lr=[0.1, 0.2, 0.4]).open(resume=True)


def test_an_interrupted_grid_is_not_replaced(records):
    other = again(records, lr=[1, 2, 3])
    with pytest.raises(UserError, match="is of an interrupted grid, 2 of 3 runs have finished: go on with --resume"):
        other.open(resume=False)
    records.fail(3, "now every run has ended")
    other.open(resume=False)


def test_somebody_elses_table_is_not_replaced(tmp_path):
    (tmp_path / "results.csv").write_text("mine,precious\n1,2\n")
    with pytest.raises(UserError, match="results.csv: is no file of train.py's; move it"):
        Records(tmp_path, grid(lr=[0.1])).open(resume=False)


def test_runs_that_finished_with_another_precision_are_not_mixed_with_others(tmp_path):
    asked = grid(precision=["auto"] * 2, lr=[0.1, 0.2])
    records = Records(tmp_path, asked)
    records.set_in_force(grid(precision=["bf16"] * 2, lr=[0.1, 0.2]))
    records.add(1, 1, measures(0.5))
    records.finish(1)
    resumed = Records(tmp_path, asked)
    resumed.open(resume=True)
    with pytest.raises(UserError, match="run 1 was trained with precision=bf16, and here it would be precision=fp32"):
        resumed.set_in_force(grid(precision=["fp32"] * 2, lr=[0.1, 0.2]))
    resumed.set_in_force(grid(precision=["bf16"] * 2, lr=[0.1, 0.2]))


def test_a_place_where_results_cannot_be_written_is_refused(tmp_path):
    (tmp_path / "results.json").mkdir()
    with pytest.raises(UserError, match="results.json: is a folder"):
        Records(tmp_path, grid(lr=[0.1])).open(resume=False)


def test_runs_are_named_by_what_differs_and_of_that_by_what_was_asked_for(tmp_path):
    values = grid(batch_size=[1, 1, 2], lr=[0.1, 0.2, 0.1], epochs=[3, 3, 3])
    assert Records(tmp_path, values).name(2) == "batch_size=1, lr=0.2"
    assert Records(tmp_path, values, names=["lr", "epochs", "batch_size"]).name(3) == "lr=0.1, batch_size=2"
    follows = Records(tmp_path, values, names=["lr"])  # batch_size is what a recipe has for that lr, say
    assert follows.name(3) == "lr=0.1"
    assert follows.common() == {"epochs": 3}
    assert Records(tmp_path, values[:1]).name(1) == ""


def test_what_came_into_force_is_recorded_and_the_grid_stays_what_was_asked_for(tmp_path):
    asked = grid(precision=["auto", "fp32"], dataset=["kmnist"] * 2)
    records = Records(tmp_path, asked)
    records.set_in_force(grid(precision=["bf16", "fp32"], dataset=["digits"] * 2))
    records.add(1, 1, measures(0.5))
    assert (records.rows[0]["precision"], records.rows[0]["dataset"]) == ("bf16", "digits")
    assert records.name(1) == "precision=auto"
    resumed = Records(tmp_path, grid(precision=["auto", "fp32"], dataset=["digits"] * 2))
    resumed.open(resume=True)
    assert len(resumed.rows) == 1
    with pytest.raises(UserError, match="--dataset digits there, kmnist here"):
        Records(tmp_path, grid(precision=["auto", "fp32"], dataset=["kmnist"] * 2)).open(resume=True)


def test_mean_and_deviation_over_the_seeds(tmp_path):
    records = Records(tmp_path, grid(lr=[1, 1, 1, 2, 2, 3], seed=[1, 2, 3, 1, 2, 1]))
    accuracies = [0.90, 0.92, 0.97, 0.5, 0.6, 0.4]
    for run, accuracy in enumerate(accuracies, start=1):
        records.add(run, 1, measures(accuracy))
        if run != 5:
            records.finish(run)
    (spread,) = records.spreads()  # of lr=2 one run has finished, and lr=3 has one seed alone
    assert spread.hyperparameters == {"lr": 1} and spread.count == 3
    assert spread.mean == pytest.approx(statistics.mean(accuracies[:3]))
    assert spread.deviation == pytest.approx(statistics.stdev(accuracies[:3]))


@pytest.mark.parametrize("values, name", [
    ({"arch": ["a", "b", "a"], "seed": [1, 2, 3]}, "seed"),
    ({"lr": [0.1, 0.2, 0.1], "seed": [1, 2, 3]}, "lr"),
    ({"lr": [0.1, 0.2, 0.3], "shuffle": [True, False, True]}, "lr"),
])  # fmt: skip
def test_many_runs_are_coloured_by_the_number_with_the_most_values(tmp_path, values, name):
    assert Records(tmp_path, grid(**values)).scale() == (name, dict(enumerate(values[name], start=1)))


def test_many_runs_that_differ_in_words_alone_are_coloured_by_what_they_reached(tmp_path):
    records = Records(tmp_path, grid(arch=["a", "b", "c"], shuffle=[True, False, True]))
    for run, accuracy in ((1, 0.5), (3, 0.7)):
        records.add(run, 1, measures(accuracy))
        records.finish(run)
    assert records.scale() == ("best validation accuracy", {1: 0.5, 3: 0.7})


def test_no_hyper_parameter_can_have_a_columns_name(tmp_path):
    with pytest.raises(ValueError, match="the name of a column: epoch, val_loss"):
        Records(tmp_path, grid(epoch=[1], val_loss=[1], lr=[1]))
