import pytest

from neural_lib.results import MEASURES
from neural_lib.runs import RunManager
from neural_lib.tables import MOST_ROWS, runs_table, spreads_text


def make_records(folder, hyperparameters: list[dict], accuracies: list[float], failed=()) -> RunManager:
    records = RunManager({}, folder, hyperparameters)
    for run, accuracy in enumerate(accuracies, start=1):
        row = dict.fromkeys(MEASURES, 0.5) | {"val_accuracy": accuracy, "run_duration": 61.25}
        records.rows_of[run] = [{"run": run, "epoch": 1, **row}]
        if run not in failed:
            records.finished.append(run)
    records.failures = dict.fromkeys(failed, "nan")
    return records


def test_runs_are_sorted_by_validation_accuracy_with_a_column_for_what_differs(tmp_path):
    values = [{"lr": 0.1, "shuffle": True, "epochs": 3}, {"lr": 0.2, "shuffle": False, "epochs": 3}]
    lines = runs_table(make_records(tmp_path, values, [0.5, 0.75]), width=80).splitlines()
    assert lines[0].split() == ["run", "lr", "shuffle", "val", "acc", "val", "loss", "train", "acc", "epoch", "seconds"]
    assert lines[2].split() == ["2", "0.2", "off", "0.7500", "0.5000", "0.5000", "1", "61.2"]
    assert lines[3].split()[0] == "1"


@pytest.mark.parametrize("names", [3, 6, 12])
@pytest.mark.parametrize("width", [80, 120])
def test_it_fits_the_terminal_whatever_differs(tmp_path, names, width):
    values = [{f"hyperparameter_{name}": run / 7 for name in range(names)} for run in range(1, 9)]
    table = runs_table(make_records(tmp_path, values, [0.5] * 8), width)
    assert max(map(len, table.splitlines())) <= width
    joined = table.replace(" ", "").replace("\n", "")
    assert all(f"hyperparameter_{name}" in joined for name in range(names)) and "0.5000" in table


def test_a_failed_run_comes_last_and_says_so(tmp_path):
    values = [{"lr": lr} for lr in (1, 2, 3)]
    *_, last = runs_table(make_records(tmp_path, values, [0.9, 0.5, 0.5], failed=[1]), 80).splitlines()
    assert last.split() == ["1", "1", "failed"]


def test_of_very_many_runs_the_best_are_shown(tmp_path):
    count = MOST_ROWS + 60
    lines = runs_table(make_records(tmp_path, [{"seed": s} for s in range(count)], [0.5] * count), 80).splitlines()
    assert len(lines) == 2 + MOST_ROWS + 1
    assert lines[-1].startswith(" and 60 more in ") and lines[-1].endswith("results.csv")


def test_the_spread_over_seeds_is_a_line_for_each_group(tmp_path):
    values = [{"lr": lr, "seed": seed} for lr in (0.1, 0.2) for seed in (1, 2)]
    records = make_records(tmp_path, values, [0.5, 0.7, 0.25, 0.25])
    assert spreads_text(records).splitlines() == [
        "    lr=0.1: 0.6000 +- 0.1414 (n = 2)",
        "    lr=0.2: 0.2500 +- 0.0000 (n = 2)",
    ]
    assert spreads_text(make_records(tmp_path, values[:2], [0.5, 0.7])) == "    all: 0.6000 +- 0.1414 (n = 2)"
    assert spreads_text(make_records(tmp_path, values[::2], [0.5, 0.7])) == ""
