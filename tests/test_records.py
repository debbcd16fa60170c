import csv
import math
import statistics

import pytest

from neural_lib.records import (
    MEASURES,
    TITLES,
    Records,
    check_results,
    epoch_figures,
    figure_text,
    json_text,
    monitored_score,
    owner_of,
    read_json,
)
from neural_lib.system.errors import UserError

RUN = {"lr": 0.1, "shuffle": True}
ROWS = [{"run": 1, "epoch": epoch, **dict.fromkeys(MEASURES, 0.5), "val_f1": None, **RUN} for epoch in (1, 2)]
OTHER = {"lr": 0.2, "shuffle": True}
CONTENT = {"finished": [1], "failures": {"2": "out of memory"}, "runs": [RUN, OTHER], "rows": ROWS}
CONTENT |= {"options": {"recipe": "best"}, "params": {"lr": [0.1, 0.2]}, "tested": False}
FORMAT = {"format": "neural_lib results", "format_version": 2}


# --- one epoch ---


def test_an_epochs_figures_are_those_of_training_and_validation():
    class Part:
        loss, accuracy, f1 = 0.5, 0.75, 0.25

    train = {"train_loss": 0.5, "train_accuracy": 0.75}
    val = {"val_loss": 0.5, "val_accuracy": 0.75, "val_f1": 0.25}
    unknown = dict.fromkeys(TITLES)  # None for figures that neither part has
    assert epoch_figures(Part, Part) == unknown | train | val
    assert epoch_figures(Part, None) == unknown | train


@pytest.mark.parametrize("known, monitor, score", [
    ({"val_accuracy": 0.9, "val_loss": 0.5, "val_f1": 0.8, "train_accuracy": 1.0}, "accuracy", 0.9),
    ({"val_accuracy": 0.9, "val_loss": 0.5, "val_f1": 0.8}, "loss", -0.5),
    ({"val_accuracy": 0.9, "val_loss": 0.5, "val_f1": 0.8}, "f1", 0.8),
    ({"train_accuracy": 0.7, "train_loss": 0.25}, "accuracy", 0.7),
    ({"train_accuracy": 0.7, "train_loss": 0.25}, "f1", 0.7),
    ({"train_accuracy": 0.7, "train_loss": 0.25}, "loss", -0.25),
    ({"train_loss": 0.25}, "accuracy", -0.25),
    ({}, "accuracy", -math.inf),
])  # fmt: skip
def test_epochs_are_compared_by_the_monitored_measure_or_the_next_best_known_one(known, monitor, score):
    assert monitored_score(dict.fromkeys(MEASURES) | known, monitor)[0] == score


def test_between_equals_the_loss_decides():
    scores = [monitored_score({"val_accuracy": 0.9, "val_loss": loss}) for loss in (0.5, 0.4)]
    assert scores[1] > scores[0] and monitored_score({"val_accuracy": 0.91, "val_loss": 0.9}) > scores[1]


def test_figures_fit_their_columns():
    texts = [figure_text(value) for value in (None, 0.12345, 9999.0, 123456.0)]
    assert texts == ["-", "0.1235", "9999.0000", "1.23e+05"]


# --- all runs ---


def grid(folder, params=None, **values) -> Records:
    """Records of runs; values: a list for each hyper-parameter, with an item for each run."""
    runs = [dict(zip(values, each, strict=True)) for each in zip(*values.values(), strict=True)]
    return Records(params or {}, runs, folder)


def finish(records: Records, run: int, *accuracies: float, **figures: float) -> None:
    """Record a finished run with an epoch for each validation accuracy; figures: further measures of each epoch."""
    measures = dict.fromkeys(MEASURES, 0.5)
    records.set_rows(run, [measures | {"val_accuracy": accuracy} | figures for accuracy in accuracies])
    records.finished.append(run)


def test_the_best_epoch_of_the_best_run_is_the_earliest_of_equals(tmp_path):
    records = grid(tmp_path, lr=[0.1, 0.2, 0.3])
    assert records.best() is None
    finish(records, 3, 0.5, 0.7, 0.7)
    finish(records, 1, 0.7, 0.6)
    finish(records, 2, 0.8)
    assert (records.best()["run"], records.best()["epoch"]) == (2, 1)
    assert records.best_of(3)["epoch"] == 2
    assert records.ranked() == [2, 3, 1]  # equals as they finished


def test_a_run_that_equals_the_best_is_no_better(tmp_path):
    records, better = grid(tmp_path, lr=[0.1, 0.2, 0.3, 0.4]), []
    for run, accuracy in enumerate([0.5, 0.7, 0.7, 0.6], start=1):
        finish(records, run, accuracy)
        records.finished.remove(run)  # is_best is asked before the run has finished
        if records.is_best(run):
            better.append(run)
        records.finished.append(run)
    assert better == [1, 2] and records.best()["run"] == 2


@pytest.mark.parametrize("monitor, best_run", [("accuracy", 1), ("loss", 2), ("f1", 3)])
def test_the_monitored_measure_decides_which_run_is_best(tmp_path, monitor, best_run):
    records = grid(tmp_path, lr=[0.1, 0.2, 0.3], monitor=[monitor] * 3)
    for run, (loss, accuracy, f1) in enumerate(((0.9, 0.9, 0.6), (0.2, 0.5, 0.7), (0.4, 0.6, 0.8)), start=1):
        finish(records, run, accuracy, val_loss=loss, val_f1=f1)
    assert records.best()["run"] == best_run == records.ranked()[0]


def test_runs_are_named_by_the_swept_hyper_parameters(tmp_path):
    values = {"batch_size": [1, 1, 2], "lr": [0.1, 0.2, 0.3], "epochs": [3, 3, 3]}
    assert grid(tmp_path, **values).name(2) == "batch_size=1, lr=0.2"
    derived = grid(tmp_path, {"lr": [0.1, 0.2, 0.3]}, **values)  # as if a recipe's variants had set batch_size
    assert derived.name(3) == "lr=0.3" and derived.derived(3) == {"batch_size": 2}
    assert derived.common() == {"epochs": 3}
    assert grid(tmp_path, lr=[0.1]).name(1) == ""


def test_mean_and_deviation_over_the_seeds(tmp_path):
    records = grid(tmp_path, lr=[1, 1, 1, 2, 2, 3], seed=[1, 2, 3, 1, 2, 1])
    accuracies = [0.90, 0.92, 0.97, 0.5, 0.6, 0.4]
    for run, accuracy in enumerate(accuracies, start=1):
        if run != 5:
            finish(records, run, accuracy)
    (spread,) = records.spreads()  # with lr=2 one run has finished, and lr=3 has a single seed
    assert spread.hyperparameters == {"lr": 1} and spread.count == 3
    assert spread.mean == pytest.approx(statistics.mean(accuracies[:3]))
    assert spread.deviation == pytest.approx(statistics.stdev(accuracies[:3]))


# --- the files ---


def test_csv_has_a_line_of_names_and_a_line_for_each_row_and_failure(tmp_path):
    records = Records({"lr": [0.1, 0.2]}, [RUN, OTHER], tmp_path)
    finish(records, 1, 1 / 3, 0.5)
    records.failures[2] = "out of memory, twice"
    first, second, failed = rows = list(csv.DictReader(records.to_csv().decode().splitlines()))
    assert all(list(row) == ["run", "epoch", *MEASURES, "lr", "shuffle", "failure"] for row in rows)
    assert float(first["val_accuracy"]) == 1 / 3 and second["val_accuracy"] == "0.5" and first["failure"] == ""
    assert (failed["run"], failed["epoch"], failed["lr"]) == ("2", "", "0.2")
    assert failed["failure"] == "out of memory, twice"


def test_json_is_read_as_it_was_written_and_has_a_line_for_each_row(tmp_path):
    records = Records(CONTENT["params"], CONTENT["runs"], tmp_path, CONTENT["options"])
    finish(records, 1, 0.5, 0.5, val_f1=None)
    records.failures[2] = "out of memory"
    text = records.to_json().decode()
    (tmp_path / "results.json").write_text(text)
    assert read_json(tmp_path / "results.json") == CONTENT
    assert sum("epoch" in line for line in text.splitlines()) == len(ROWS)
    again = Records.read(tmp_path)
    assert (again.rows, again.finished, again.failures) == (ROWS, [1], {2: "out of memory"})
    assert (again.swept, again.best()["run"]) == (["lr"], 1)


def test_records_of_an_interrupted_run_count_as_finished(tmp_path):
    text = json_text(**FORMAT, **CONTENT | {"runs": [RUN], "params": {}, "failures": {}, "finished": []})
    (tmp_path / "results.json").write_text(text)
    assert Records.read(tmp_path).best()["epoch"] == 1
    assert Records.read(tmp_path / "nowhere") is None


WHOLE = json_text(**FORMAT, **CONTENT)


@pytest.mark.parametrize(
    "content",
    ["", "{", "[]", "[" * 100_000, "null", "{}", WHOLE[:-20], WHOLE.replace("neural_lib results", "another's"),
     WHOLE.replace('"format_version": 2', '"format_version": 3'), WHOLE.replace("rows", "lines"), "\udcff"],
    ids=range(11),
)  # fmt: skip
def test_another_file_is_refused_in_one_line(tmp_path, content):
    path = tmp_path / "results.json"
    path.write_bytes(content.encode(errors="surrogateescape"))
    with pytest.raises(UserError, match="results.json: is no results file of this version; delete it") as caught:
        read_json(path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["results.csv", "results.json"])
def test_results_of_another_program_are_not_replaced(tmp_path, name):
    assert check_results(tmp_path) == (tmp_path / "results.csv", tmp_path / "results.json")
    (tmp_path / name).write_text("mine")
    with pytest.raises(UserError, match=f"{name}: (is no results file|was not written by)"):
        check_results(tmp_path)


def test_records_belong_to_the_model_that_they_name_while_it_exists(tmp_path):
    assert owner_of(tmp_path, default="mine.pth") == "mine.pth"
    (tmp_path / "results.json").write_text(json_text(**FORMAT, **CONTENT | {"options": {"model": "model.pth"}}))
    assert owner_of(tmp_path, default="mine.pth") == "mine.pth"
    (tmp_path / "model.pth").touch()
    assert owner_of(tmp_path, default="mine.pth") == "model.pth"
    (tmp_path / "results.json").write_text("{}")
    assert owner_of(tmp_path, default="mine.pth") == "mine.pth"
