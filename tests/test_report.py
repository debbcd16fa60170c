import json
import math
import sys
from dataclasses import replace

import cv2
import numpy as np
import pytest
import torch

from neural_lib import datasets, report
from neural_lib.checkpoint import Checkpoint
from neural_lib.errors import UserError
from neural_lib.evaluation import Evaluation
from neural_lib.files import Writer

INFO = datasets.DATASETS["kmnist"]
SAVED = Checkpoint(
    arch="lenet", arch_args={}, state_dict={}, dataset="kmnist", classes=list(INFO.classes), glyphs=list(INFO.glyphs),
    image_size=28, mean=[0.2], std=[0.3], config={}, metrics={"epoch": 3},
)  # fmt: skip


def evaluation(labels, predictions, probabilities) -> Evaluation:
    labels, predictions = torch.tensor(labels), torch.tensor(predictions)
    accuracy = (labels == predictions).double().mean().item()
    return Evaluation(0.25, accuracy, 0.5, labels, predictions, torch.tensor(probabilities))


SOME = evaluation(labels=[0, 1, 2, 3, 4], predictions=[0, 2, 5, 3, 9], probabilities=[0.9, 0.5, 0.8, 1.0, 0.7])
IMAGES = torch.randint(0, 256, (5, 1, 28, 28), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def write(folder, which=SOME, images=IMAGES, dataset="kmnist", suffix="") -> None:
    writer = Writer()
    report.write(report.ReportFiles(folder, "--model", suffix), SAVED, dataset, which, images, writer)
    assert writer.finish()


def test_the_json_says_what_it_is_of_and_holds_every_score(tmp_path):
    write(tmp_path)
    text = (tmp_path / "report.json").read_text(encoding="utf-8")
    written = json.loads(text)
    assert written == report.as_dict(SAVED, "kmnist", SOME)
    expected = {
        "format": "neural_lib report", "dataset": "kmnist", "part": "test", "images": 5, "arch": "lenet",
        "trained_on": "kmnist", "epoch": 3, "loss": 0.25, "accuracy": 0.4,
    }  # fmt: skip
    assert written.items() >= expected.items()
    assert [each["class"] for each in written["classes"]] == list(INFO.classes)
    assert written["classes"][2] == {"class": "su", "precision": 0.0, "recall": 0.0, "f1-score": 0.0, "support": 1}
    matrix = torch.zeros(10, 10, dtype=torch.int64)
    for truth, predicted in zip(SOME.labels, SOME.predictions, strict=True):
        matrix[truth, predicted] += 1
    assert written["confusion_matrix"] == matrix.tolist()
    assert sum('"class"' in line for line in text.splitlines()) == 10  # a line for each


def test_each_mistake_is_drawn_with_prediction_probability_and_truth(tmp_path, monkeypatch):
    from neural_lib import annotate

    drawn, draw = [], annotate.annotate
    monkeypatch.setattr(annotate, "annotate", lambda *args: drawn.append(args) or draw(*args))
    write(tmp_path)
    assert [rest for _, *rest in drawn] == [
        ["ha は", pytest.approx(0.8), "su す"],
        ["wo を", pytest.approx(0.7), "na な"],
        ["su す", pytest.approx(0.5), "ki き"],
    ]
    for (pixels, *_), index in zip(drawn, (2, 4, 1), strict=True):
        assert np.array_equal(pixels, IMAGES[index, 0].numpy())
    assert cv2.imread(str(tmp_path / "mistakes.png")).std() > 10


def test_without_mistakes_the_picture_says_so(tmp_path):
    write(tmp_path, evaluation([1], [1], [1.0]), IMAGES[:1])
    assert cv2.imread(str(tmp_path / "mistakes.png")).max() > 150  # the line of text


def test_without_opencv_all_but_the_mistakes_is_written(tmp_path, monkeypatch, caplog):
    import neural_lib

    monkeypatch.setitem(sys.modules, "cv2", None)
    monkeypatch.delitem(sys.modules, "neural_lib.annotate", raising=False)
    monkeypatch.delattr(neural_lib, "annotate", raising=False)
    (tmp_path / "mistakes.png").touch()  # of an earlier network
    write(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["confusion.png", "report.html", "report.json"]
    assert "mistakes.png can't be drawn without OpenCV" in caplog.text


def test_somebody_elses_file_is_not_replaced(tmp_path):
    write(tmp_path)
    write(tmp_path)  # its own it may replace
    (tmp_path / "report.json").write_text('{"mine": 1}')
    with pytest.raises(UserError, match="report.json: is no file of train.py's; move it"):
        write(tmp_path)


def test_another_output_in_the_place_of_a_picture_is_refused(tmp_path):
    with pytest.raises(UserError, match="--plot .*confusion.png: is where a picture of the report goes"):
        report.ReportFiles(tmp_path, "--model", taken=tmp_path / "confusion.png")
    report.ReportFiles(tmp_path, "--model", taken=tmp_path / "plot.png")


def test_a_loss_that_is_no_number_is_nothing_in_json(tmp_path):
    write(tmp_path, SOME._replace(loss=float("nan")))
    assert json.loads((tmp_path / "report.json").read_text(), parse_constant=pytest.fail)["loss"] is None


def test_one_mistake_is_not_several(tmp_path, monkeypatch):
    from neural_lib import annotate

    heads, draw = [], annotate.headed
    monkeypatch.setattr(annotate, "headed", lambda tiles, text: heads.append(text) or draw(tiles, text))
    for labels in ([0, 0], [0, 1], [2, 1]):
        write(tmp_path, evaluation(labels, [0, 0], [0.5, 0.5]), IMAGES[:2])
    told = [f"KMNIST, test: {count} among 2 images" for count in ("0 mistakes", "1 mistake", "2 mistakes")]
    assert heads == told


def test_another_data_sets_report_has_names_of_its_own(tmp_path):
    write(tmp_path, dataset="mnist", suffix="-mnist")
    names = ["confusion-mnist.png", "mistakes-mnist.png", "report-mnist.html", "report-mnist.json"]
    assert sorted(path.name for path in tmp_path.iterdir()) == names
    told = json.loads((tmp_path / "report-mnist.json").read_text())
    assert (told["dataset"], told["trained_on"]) == ("mnist", "kmnist")


def gap_of(validation: float, right: int, count: int, dataset: str = "digits") -> tuple[float, str]:
    predictions = [0] * right + [1] * (count - right)
    saved = replace(SAVED, dataset=dataset, metrics={"val_accuracy": validation})
    return report.gap(saved, dataset, evaluation([0] * count, predictions, [1.0] * count))


@pytest.mark.parametrize("validation, right, count, dataset, meaning", [
    (0.94, 270, 300, "digits", "test accuracy has a standard error of 1.8 points, so chance may explain that"),
    (0.98, 270, 300, "digits", "so chance alone hardly explains that: what validation chose looks best there"),
    (0.80, 270, 300, "digits", "so chance alone hardly explains that: the test images are easier"),
    (0.98, 9000, 10000, "kmnist", "KMNIST's test images differ in distribution from its training images"),
    (0.80, 9000, 10000, "kmnist", "on 10,000 images test accuracy has a standard error of 0.3 points, so chance alone"),
])  # fmt: skip
def test_what_a_gap_between_validation_and_test_means(validation, right, count, dataset, meaning):
    difference, told = gap_of(validation, right, count, dataset)
    assert difference == pytest.approx(validation - right / count) and meaning in told


def test_there_is_no_gap_to_another_data_set():
    difference, told = report.gap(replace(SAVED, metrics={"val_accuracy": 0.5}), "mnist", SOME)
    assert math.isnan(difference) and told == ""
    assert report.gap_warning(SAVED, "kmnist", SOME) == ""  # a model that was never validated
