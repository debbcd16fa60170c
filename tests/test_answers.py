import json
import os
from pathlib import Path

import pytest
from rich.cells import cell_len

from neural_lib import answers, checkpoint
from neural_lib.answers import AnswerTable
from neural_lib.config import TrainConfig
from neural_lib.datasets import DATASETS


def described(name: str) -> checkpoint.Checkpoint:
    return checkpoint.for_run(TrainConfig(dataset=name), DATASETS[name], {})


PROBABILITIES = [0.01, 0.05, 0.7, 0.2, 0.02, 0.02, 0.0, 0.0, 0.0, 0.0]


@pytest.mark.parametrize("top", [1, 3, 10, 99])
def test_the_most_probable_come_first(top):
    answer = answers.ranked(Path("p.png"), PROBABILITIES, top)
    assert answer.labels[:3] == [2, 3, 1][:top] and len(answer.labels) == min(top, 10)
    assert answer.probabilities == sorted(PROBABILITIES, reverse=True)[:top]


def test_an_answer_for_programs():
    line = answers.as_json(described("kmnist"), answers.ranked(Path("a/ü.png"), PROBABILITIES, 2))
    assert "\n" not in line
    su, tsu = (
        {"label": "su", "index": 2, "glyph": "す", "probability": 0.7},
        {"label": "tsu", "index": 3, "glyph": "つ", "probability": 0.2},
    )
    assert json.loads(line) == {"path": os.path.join("a", "ü.png"), **su, "top": [su, tsu]}
    assert "glyph" not in answers.as_json(described("cifar10"), answers.ranked(Path("p"), PROBABILITIES, 2))


def test_a_failure_for_programs():
    failure = json.loads(answers.failure_as_json(Path(os.fsdecode(b"\xff.png")), "no ink found"))
    assert failure == {"path": "\udcff.png", "error": "no ink found"}


@pytest.mark.parametrize("name", ["kmnist", "cifar10", "digits"])
@pytest.mark.parametrize("top", [1, 2, 3])
def test_the_columns_stand_below_each_other_within_80(name, top):
    paths = [Path("a.png"), Path("か" * 50), Path("folder") / f"{'x' * 100}.png"]
    table = AnswerTable(described(name), paths, top, width=80)
    titles, rule = table.head().splitlines()
    rows = [table.row(answers.ranked(path, PROBABILITIES, top)) for path in paths]
    assert max(map(cell_len, [titles, rule, *rows])) <= 80
    end = cell_len(titles[: titles.index("probability") + len("probability")])
    for row, path in zip(rows, paths, strict=True):
        assert cell_len(row[: row.index("70.0%") + len("70.0%")]) == end
        assert described(name).written(2) in row and row.count("%") == top
        assert path.name[-6:] in row  # the end of a path tells most
    assert rows[0].startswith(" a.png ") and rows[2].startswith(" ...xxx")


def test_on_a_wide_terminal_paths_are_whole():
    long = Path("folder") / f"{'x' * 100}.png"
    assert str(long) in AnswerTable(described("digits"), [long], 3, 200).row(answers.ranked(long, PROBABILITIES, 3))


def test_a_path_takes_one_line_whatever_it_holds():
    assert answers.printable(Path("a\nb\x1b[1m" + os.fsdecode(b"\xff") + "す.png")) == "a?b?[1m?す.png"
