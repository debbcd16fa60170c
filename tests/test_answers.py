import json
import os
from pathlib import Path

import pytest
from rich.cells import cell_len

from neural_lib import answers, checkpoint
from neural_lib.answers import AnswersAsJson, AnswerTable
from neural_lib.config import TrainConfig
from neural_lib.datasets import DATASETS


def described(name: str) -> checkpoint.Checkpoint:
    return checkpoint.for_run(TrainConfig(dataset=name), DATASETS[name], {})


PROBABILITIES = [0.01, 0.05, 0.7, 0.2, 0.02, 0.02, 0.0, 0.0, 0.0, 0.0]


def answer_for(path: Path, top: int) -> answers.Answer:
    return answers.Answer(path, *answers.most_probable(PROBABILITIES, top))


@pytest.mark.parametrize("top", [1, 3, 10, 99])
def test_the_most_probable_come_first(top):
    labels, probabilities = answers.most_probable(PROBABILITIES, top)
    assert labels[:3] == [2, 3, 1][:top] and len(labels) == min(top, 10)
    assert probabilities == sorted(PROBABILITIES, reverse=True)[:top]


def test_an_answer_for_programs():
    (line,) = AnswersAsJson(described("kmnist")).answer(answer_for(Path("a/ü.png"), 2))
    assert "\n" not in line
    su, tsu = (
        {"label": "su", "index": 2, "glyph": "す", "probability": 0.7},
        {"label": "tsu", "index": 3, "glyph": "つ", "probability": 0.2},
    )
    assert json.loads(line) == {"path": os.path.join("a", "ü.png"), **su, "top": [su, tsu]}
    assert "glyph" not in answers.as_json(described("cifar10"), answer_for(Path("p"), 2))


def test_a_failure_for_programs():
    (line,) = AnswersAsJson(described("digits")).failure(Path(os.fsdecode(b"\xff.png")), "no ink found")
    assert json.loads(line) == {"path": "\udcff.png", "error": "no ink found"}


@pytest.mark.parametrize("name", ["kmnist", "cifar10", "digits"])
@pytest.mark.parametrize("top", [1, 2, 3])
def test_the_columns_stand_below_each_other_within_80(name, top):
    paths = [Path("a.png"), Path("か" * 50), Path("folder") / f"{'x' * 100}.png"]
    table = AnswerTable(described(name), paths, top, width=80)
    assert table.failure(paths[0], "no ink found") == []
    titles, rule, *rows = [line for path in paths for line in table.answer(answer_for(path, top))]
    assert set(rule.strip()) == {"-"} and len(rule) == len(titles)
    assert max(map(cell_len, [titles, *rows])) <= 80
    end = cell_len(titles[: titles.index("probability") + len("probability")])
    for row, path in zip(rows, paths, strict=True):
        assert cell_len(row[: row.index("70.0%") + len("70.0%")]) == end
        assert described(name).written(2) in row and row.count("%") == top
        assert path.name[-6:] in row  # the end of a path tells most
    assert rows[0].startswith(" a.png ") and rows[2].startswith(" ...xxx")


def test_on_a_wide_terminal_paths_are_whole():
    long = Path("folder") / f"{'x' * 100}.png"
    assert str(long) in AnswerTable(described("digits"), [long], 3, 200).answer(answer_for(long, 3))[-1]
