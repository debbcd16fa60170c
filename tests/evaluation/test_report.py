"""The report's files and tables. test_browser.py opens report.html in a browser."""

import base64
import csv
import html
import json
import logging
import math
import re
from dataclasses import replace
from html.parser import HTMLParser

import cv2
import numpy as np
import page_parts
import pytest
import torch
from matplotlib.figure import Figure
from page_parts import COUNT, NAMES

from neural_lib.checkpoint import Checkpoint
from neural_lib.data.catalog import DATASETS
from neural_lib.data.images import ImageTensors, Parts, pixels_of
from neural_lib.evaluation import annotate, report
from neural_lib.evaluation.copies import Copy
from neural_lib.evaluation.data_check import DataCheck, Place
from neural_lib.evaluation.label_check import Suspect
from neural_lib.evaluation.report import MAX_ROWS, Report, runs_table, spreads_text
from neural_lib.evaluation.report_files import ReportFiles
from neural_lib.evaluation.scores import Scores
from neural_lib.lenet import LeNet
from neural_lib.records import MEASURES, Records
from neural_lib.system.errors import UserError
from neural_lib.system.files import Writer

INFO = DATASETS["kmnist"]
SAVED = Checkpoint(
    arch="lenet", arch_args={}, state_dict={}, dataset="kmnist", classes=list(INFO.classes), glyphs=list(INFO.glyphs),
    image_size=28, mean=[0.2], std=[0.3], config={}, metrics={"epoch": 3}, placement=INFO.placement._asdict(),
)  # fmt: skip
PIXELS = torch.randint(0, 256, (5, 1, 28, 28), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def unlabelled(pixels: torch.Tensor) -> ImageTensors:
    """Images whose labels don't matter, as the scores hold them."""
    return ImageTensors(pixels, torch.zeros(len(pixels), dtype=torch.int64))


IMAGES = unlabelled(PIXELS)


def make_scores(labels, predictions, probabilities) -> Scores:
    labels, predictions = torch.tensor(labels), torch.tensor(predictions)
    accuracy = (labels == predictions).double().mean().item()
    return Scores(0.25, accuracy, 0.5, labels, predictions, torch.tensor(probabilities))


SOME = make_scores(labels=[0, 1, 2, 3, 4], predictions=[0, 2, 5, 3, 9], probabilities=[0.9, 0.5, 0.8, 1.0, 0.7])


@pytest.fixture
def write(tmp_path, monkeypatch):
    """A function that writes a report without matplotlib's figures to tmp_path and returns report.json's content."""
    monkeypatch.setattr(Figure, "savefig", lambda self, file, **_: file.write(b"not drawn"))

    def write(scores=SOME, images=IMAGES, dataset="kmnist", suffix="", saved=SAVED) -> dict:
        writer, files = Writer(), ReportFiles(tmp_path, "--model", suffix)
        Report(saved, dataset, scores, images).write(files, writer)
        assert writer.finish()
        return json.loads(files.json.read_text(encoding="utf-8"), parse_constant=pytest.fail)

    return write


# --- report.json, and the same on the terminal ---


def test_the_json_holds_every_score_and_the_names_of_network_and_data_set(write, tmp_path):
    written = write()
    assert written == Report(SAVED, "kmnist", SOME, IMAGES).content
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
    lines = (tmp_path / "report.json").read_text(encoding="utf-8").splitlines()
    assert sum('"class"' in line for line in lines) == 10  # one line per class


def test_the_calibration_is_that_of_the_probabilities_before_and_after_temperature(write, tmp_path):
    expected = {"temperature": None, "ece_before": pytest.approx((0.1 + 0.5 + 0.8 + 0.7) / 5), "ece_after": None}
    assert write()["calibration"] == expected  # each of the five is in a different bin
    assert 'id="calibration"' not in (tmp_path / "report.html").read_text(encoding="utf-8")
    calibrated = SOME._replace(probabilities=torch.tensor([0.5, 0.1, 0.25, 1.0, 0.1]), uncalibrated=SOME.probabilities)
    written = write(calibrated, saved=replace(SAVED, calibration={"temperature": 1.5}))["calibration"]
    after = pytest.approx((0.5 + 0.2 + 0.25) / 5)  # the two probabilities of 0.1 share a bin
    assert written == {**expected, "temperature": 1.5, "ece_after": after}
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "(temperature 1.50): on" in page and "differ by 19.0 points" in page


def test_the_report_says_why_a_network_is_not_calibrated(write, tmp_path, caplog):
    caplog.set_level(logging.INFO)
    scores = SOME._replace(uncalibrated=SOME.probabilities)
    saved = replace(SAVED, calibration={"temperature": 1.0}, training={"val_images": 20})
    written = write(scores, saved=saved)["calibration"]
    assert written["temperature"] == 1 and written["ece_before"] == written["ece_after"]
    Report(saved, "kmnist", scores, IMAGES).log()
    why = "not calibrated: on 20 validation images a temperature doesn't lower the loss"
    assert f"expected calibration error: 0.4200; {why}\n" in caplog.text
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert f"Probabilities are {why}".replace("'", "&#39;") in page and "(temperature" not in page


def test_a_loss_that_is_not_finite_is_null_in_json(write):
    assert write(SOME._replace(loss=float("nan")))["loss"] is None


def test_the_log_has_the_scores_of_every_class_and_the_most_frequent_confusions(caplog):
    caplog.set_level(logging.INFO)
    generator, classes = torch.Generator().manual_seed(0), ["o", "ki", "su", "never"]
    labels, guesses = torch.randint(3, (2, 300), generator=generator)
    predictions = torch.where(torch.rand(300, generator=generator) < 0.6, labels, guesses)
    scores = SOME._replace(labels=labels, predictions=predictions, probabilities=torch.ones(300))
    result = Report(replace(SAVED, classes=classes, glyphs=[]), "kmnist", scores, IMAGES)
    result.log()
    names = ("precision", "recall", "f1-score")
    rows = {line.strip().split("  ")[0]: line.split() for line in caplog.messages[0].splitlines() if line.strip()}
    for row in result.content["classes"]:
        assert rows[row["class"]][1:] == [f"{row[name]:.4f}" for name in names] + [str(row["support"])]
    for mean in ("macro avg", "weighted avg"):
        row = result.content[mean]
        assert rows[mean][2:] == [f"{row[name]:.4f}" for name in names] + [str(row["support"])]
    assert rows["never"][1:] == ["0.0000", "0.0000", "0.0000", "0"]
    right = (labels == predictions).double().mean().item()
    assert result.content["accuracy"] == right and rows["accuracy"][1:] == [f"{right:.4f}", "300"]
    first = caplog.messages[1].splitlines()[1]
    truth, predicted = max(
        ((t, p) for t in range(3) for p in range(3) if t != p), key=lambda cell: result.matrix[cell[0]][cell[1]]
    )
    count, support = result.matrix[truth][predicted], sum(result.matrix[truth])
    assert first == f"    {classes[truth]} read as {classes[predicted]}: {count} of {support}"


@pytest.mark.parametrize("placement, words, other", [
    (INFO.placement._asdict(), "read as", "taken for"), ({}, "taken for", "read as"),
    (DATASETS["fashion-mnist"].placement._asdict(), "taken for", "read as"),
])  # fmt: skip
def test_written_characters_are_read_and_other_things_are_taken_for_something(caplog, placement, words, other):
    caplog.set_level(logging.INFO)
    result = Report(replace(SAVED, placement=placement, classes=["a" * 40, *INFO.classes[1:]], glyphs=[]), "kmnist",
                    make_scores([0, 1, 2], [1, 0, 2], [0.5, 0.6, 0.7]), unlabelled(PIXELS[:3]))  # fmt: skip
    result.log()
    assert f"    {'a' * 7}...{'a' * 14} {words} ki: 1 of 1" in caplog.messages[1].splitlines()
    assert max(map(len, caplog.text.splitlines()[1:])) <= 80
    page = " ".join(result.html().split()).replace("What is taken for what", "")
    assert page.count(f"{'a' * 40} {words} ki") == 5  # list, cell (twice), picture and its caption
    assert other not in caplog.text + page and "su, right: 1 of 1" in page


# --- the check of the data that the network was trained on ---


def test_labels_worth_a_second_look_are_in_the_json_the_table_and_the_log(written, caplog):
    folder, content, _ = written
    assert content["labels"] == {"images": 300, "found": 2, "suspects": [
        {"part": "training", "path": '<i>"&7.png', "label": NAMES[0], "suggestion": NAMES[1], "probability": 0.0123,
         "suggested": 0.9},
        {"part": "validation", "path": '<i>"&205.png', "label": NAMES[2], "suggestion": NAMES[3], "probability": 0.04,
         "suggested": 0.8},
    ]}  # fmt: skip
    assert content["copies"] == [{"training": '<i>"&11.png', "test": '<i>"&304.png'}]
    with (folder / "labels.csv").open(encoding="utf-8-sig", newline="") as file:
        rows = list(csv.reader(file))
    assert rows == [
        ["path", "label", "suggestion", "probability"], ['<i>"&7.png', NAMES[0], NAMES[1], "0.0123"],
        ['<i>"&205.png', NAMES[2], NAMES[3], "0.0400"], ['<i>"&9.png', NAMES[3], NAMES[4], "0.4000"],
    ]  # fmt: skip
    odd = page_parts.images()
    odd.names = [f"=a\u202fb\udcff\x1b{number}" for number in range(COUNT)]
    of = page_parts.make_report(Records.read(folder))
    check = replace(of.check, parts=of.check.parts | {"training": odd})
    table = Report(of.saved, "digits", of.scores, of.images, check=check)._labels_table().decode("utf-8-sig")
    assert table.splitlines()[1].startswith("'=a\u202fb\\udcff\\x1b7,")  # spaces stay, bytes are escaped, no formula
    caplog.set_level(logging.INFO)
    page_parts.make_report(Records.read(folder)).log_check()
    suspects, copies = caplog.messages
    assert suspects.splitlines() == [
        "labels worth a second look: 2 of 300 training and validation images",
        f'    <i>"&7.png: {annotate.shortened(NAMES[0])} (1.2%), looks like {NAMES[1]} (90.0%)',
        f'    <i>"&205.png: {annotate.shortened(NAMES[2])} (4.0%), looks like {annotate.shortened(NAMES[3])} (80.0%)',
    ]
    assert copies == (
        '1 validation or test image is nearly equal to an image of an earlier part: <i>"&11.png and <i>"&304.png'
        "; report.html shows them"
    )


def test_suspects_and_copies_are_shown_with_their_own_pixels(tmp_path):
    of = page_parts.make_report(page_parts.write_grid(tmp_path))
    check = replace(of.check, parts=of.check.parts | {"test": page_parts.images().subset(torch.arange(300, 400))})
    shown = Report(of.saved, "digits", of.scores, of.images, check=check)._check_on_page(NAMES)

    def number(image: dict) -> int:
        content = base64.b64decode(image["uri"].partition(",")[2])
        high, low = cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_GRAYSCALE)[0, :2].tolist()
        assert image["name"] == f'<i>"&{256 * high + low}.png'
        return 256 * high + low

    assert [number(each) for each in shown["suspects"]] == [7, 205]
    assert [[number(each) for each in pair] for pair in shown["copies"]] == [[11, 304]]


def test_of_many_copies_some_are_shown_and_those_of_equal_pixels_are_not_warned_of_again(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(report, "MAX_COPIES", 2)
    of = page_parts.make_report(page_parts.write_grid(tmp_path))
    copies = [Copy("training", index, "test", index, index != 2) for index in range(5)]
    result = Report(of.saved, "digits", of.scores, of.images, check=replace(of.check, copies=copies))
    page = " ".join(result.html().split())
    assert page.count('alt="training image"') == 2 and "5 validation or test images are near-copies" in page
    assert "; 2 are shown" in page and len(result.content["copies"]) == 5
    result.log_check()
    assert caplog.messages == [
        '1 validation or test image is nearly equal to an image of an earlier part: <i>"&2.png and <i>"&302.png'
        "; report.html shows them"
    ]


def test_a_check_that_fails_is_tried_again_and_the_report_written_once_more(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(Figure, "savefig", lambda self, file, **_: file.write(b"not drawn"))
    of, files, writer, calls = page_parts.make_report(), ReportFiles(tmp_path, "--model"), Writer(), []

    def check(*_) -> DataCheck:
        calls.append(len(calls))
        if len(calls) == 1:
            raise RuntimeError("too little memory")
        return page_parts.make_check()

    monkeypatch.setattr(report, "check_data", check)
    report.write_checked(of, Parts(of.images, of.images), files, writer)
    assert json.loads(files.json.read_text())["labels"] is None and not files.labels.exists()
    assert "the check of the labels: RuntimeError: too little memory; trying again later" in caplog.text
    assert writer.finish() and len(calls) == 2
    assert json.loads(files.json.read_text())["labels"]["found"] == 2 and files.labels.exists()
    assert "Labels worth a second look" in files.page.read_text(encoding="utf-8")


def test_without_the_training_images_nothing_is_checked(tmp_path, monkeypatch):
    monkeypatch.setattr(report, "check_data", pytest.fail)
    of, files, writer = page_parts.make_report(), ReportFiles(tmp_path, "--model"), Writer()
    report.write_checked(of, Parts(of.images), files, writer)
    assert writer.finish() and files.page.exists() and not files.labels.exists()


def test_a_page_without_what_decided_is_better_than_none(monkeypatch, caplog):
    def fail(*_):
        raise RuntimeError("CUDA out of\nmemory")

    monkeypatch.setattr(report, "heat_maps", fail)
    page = page_parts.make_report().html()
    assert 'class="heat" src' not in page and "<label id" not in page
    assert caplog.messages == ["the report can't show what decided: CUDA out of memory"]


def test_the_json_names_the_files_of_all_mistakes_the_most_confident_first(written):
    _, content, _ = written
    scores = page_parts.scores()
    wrong = (scores.labels != scores.predictions).nonzero().flatten().tolist()
    wrong.sort(key=lambda index: -scores.probabilities[index])
    assert [each["path"] for each in content["mistakes"]] == [f'<i>"&{index}.png' for index in wrong]
    first = content["mistakes"][0]
    labels = scores.labels[wrong[0]].item(), scores.predictions[wrong[0]].item()
    assert (first["label"], first["predicted"]) == (NAMES[labels[0]], NAMES[labels[1]])
    assert first["probability"] == pytest.approx(scores.probabilities[wrong[0]].item(), abs=1e-6)


def test_a_share_of_the_images_and_more_suspects_than_shown_are_said(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(report, "SUSPECTS_IN_LOG", 1)
    monkeypatch.setattr(report, "MAX_SUSPECTS", 1)
    of = page_parts.make_report(page_parts.write_grid(tmp_path))
    result = Report(of.saved, "digits", of.scores, of.images, check=replace(of.check, total=1600, copies=[]))
    caplog.set_level(logging.INFO)
    result.log_check()
    (text,) = caplog.messages
    assert "2 of 300 training and validation images, a share of 25%\n" in text and "    and 1 more: labels.csv" in text
    assert text.count("looks like") == 1
    assert result.content["labels"]["found"] == 2 and len(result.content["labels"]["suspects"]) == 1
    page = " ".join(result.html().split())
    assert "2 of 300 training and validation images, a share of 25% look" in page
    assert "most doubtful first; 1 are shown" in page
    assert page.count("an image labelled") == 1 and "No validation or test image was found" in page
    none = Report(of.saved, "digits", of.scores, of.images, check=replace(of.check, suspects=0))
    caplog.clear()
    none.log_check()
    assert caplog.messages[0] == "labels worth a second look: none of 300 training and validation images"
    assert "None of 300 training and validation images." in none.html()
    unchecked = Report(of.saved, "digits", of.scores, of.images, check=replace(of.check, suspects=0, checked=0))
    caplog.clear()
    unchecked.log_check()
    assert caplog.messages[0].startswith("the labels could not be checked: too few images")
    assert "The labels could not be checked" in unchecked.html() and "None of" not in unchecked.html()


# --- which files may be written ---


def test_another_programs_file_is_not_replaced(write, tmp_path):
    write()
    write()  # files of an earlier report may be replaced
    (tmp_path / "report.json").write_text('{"mine": 1}')
    with pytest.raises(UserError, match="report.json: was not written by train.py; move it"):
        write()


def test_another_output_in_the_place_of_a_picture_is_refused(tmp_path):
    with pytest.raises(UserError, match="--plot .*confusion.png: is reserved for a picture of the report"):
        ReportFiles(tmp_path, "--model", taken=tmp_path / "confusion.png")
    ReportFiles(tmp_path, "--model", taken=tmp_path / "plot.png")


def test_the_report_on_another_data_set_has_file_names_of_its_own(write, tmp_path):
    written = write(dataset="mnist", suffix="-mnist")
    names = ["confusion-mnist.png", "mistakes-mnist.png", "report-mnist.html", "report-mnist.json"]
    assert sorted(path.name for path in tmp_path.iterdir()) == names
    assert (written["dataset"], written["trained_on"]) == ("mnist", "kmnist")


# --- mistakes.png ---


def test_each_mistake_is_drawn_with_prediction_probability_and_truth(write, tmp_path):
    write()
    expected = [
        annotate.annotate_image(pixels_of(PIXELS[2]), "ha は", SOME.probabilities[2], "su す"),
        annotate.annotate_image(pixels_of(PIXELS[4]), "wo を", SOME.probabilities[4], "na な"),
        annotate.annotate_image(pixels_of(PIXELS[1]), "su す", SOME.probabilities[1], "ki き"),
    ]
    drawn = cv2.imread(str(tmp_path / "mistakes.png"))
    assert np.array_equal(drawn, annotate.titled_montage(expected, "KMNIST, test: 3 mistakes among 5 images"))


@pytest.mark.parametrize("labels, text", [([0, 0], "0 mistakes"), ([0, 1], "1 mistake")])
def test_the_heading_counts_the_mistakes(write, tmp_path, labels, text):
    write(make_scores(labels, [0, 0], [0.5, 0.5]), unlabelled(PIXELS[:2]))
    drawn = cv2.imread(str(tmp_path / "mistakes.png"))
    tiles = [annotate.annotate_image(pixels_of(PIXELS[1]), "o お", 0.5, "ki き")] * labels.count(1)
    assert np.array_equal(drawn, annotate.titled_montage(tiles, f"KMNIST, test: {text} among 2 images"))


# --- validation and test accuracy apart ---


@pytest.mark.parametrize("validation, right, count, dataset, meaning", [
    (0.94, 270, 300, "digits", "may be chance (standard errors 1.4 and 1.8 points)"),
    (0.98, 270, 300, "digits", "hardly chance; the epoch was chosen on it, or the test is harder"),
    (0.80, 270, 300, "digits", "hardly chance; the test images are easier, or labels are wrong"),
    (0.98, 9000, 10000, "kmnist", "KMNIST's test images differ from those of training"),
    (0.80, 9000, 10000, "kmnist", "hardly chance; the test images are easier, or labels are wrong"),
])  # fmt: skip
def test_a_gap_between_validation_and_test_is_explained(caplog, validation, right, count, dataset, meaning):
    scores = make_scores([0] * count, [0] * right + [1] * (count - right), [1.0] * count)
    saved = replace(SAVED, dataset=dataset, metrics={"val_accuracy": validation})
    result = Report(saved, dataset, scores, IMAGES)
    difference, sentence = result.gap
    assert difference == pytest.approx(validation - right / count) and meaning in sentence
    caplog.set_level("INFO")
    result.log_gap()
    assert [record.levelname for record in caplog.records] == ["INFO" if "may be" in meaning else "WARNING"]
    figures = f"validation accuracy {validation:.4f}, test {right / count:.4f}"
    assert caplog.messages == [f"{figures}, {100 * abs(difference):.1f} points apart: {sentence}"]
    assert len(caplog.text.splitlines()) == 1 and len(caplog.messages[0]) <= 125


def test_of_few_validation_images_the_gap_says_so():
    saved = replace(SAVED, metrics={"val_accuracy": 1.0}, training={"val_images": 20})
    scores = make_scores([0] * 1000, [0] * 966 + [1] * 34, [1.0] * 1000)
    _, sentence = Report(saved, SAVED.dataset, scores, IMAGES).gap
    assert sentence == "may be chance (standard errors 4.7 and 0.6 points)"


def test_without_test_images_of_their_own_both_accuracies_are_logged_and_shown(caplog):
    caplog.set_level(logging.INFO)
    training = {"parts": ["train", "val"], "val_images": 1530, "test_images": 40}
    saved = replace(SAVED, dataset="/photos", metrics={"epoch": 3, "val_accuracy": 0.9}, training=training)
    scores = make_scores([0] * 40, [0] * 30 + [1] * 10, [1.0] * 40)
    images = unlabelled(PIXELS[:1].expand(40, -1, -1, -1))
    result = Report(saved, "/photos", scores, images)
    result.log_accuracy()
    assert caplog.messages == [
        "test accuracy: 0.7500",
        "there is no test/: images of train/ were tested on, val/ validated\n"
        "    test, taken out of train/      40 images, accuracy 0.7500 +- 0.0695\n"
        "    validation, val/            1,530 images, accuracy 0.9000 +- 0.0077\n"
        "    +-: standard error; train.py --test val scores val/ as test instead",
    ]
    page = " ".join(result.html().split())
    page = page.replace("&nbsp;", " ")
    assert "30 of 40 images right (± 7.0 points" in page and "accuracy of 1,530 images (± 0.8 points)" in page
    assert "photos has no test/: the 40 test images were taken out of train/, while the 1,530 images of val/" in page
    assert result.content["validation"] == {"accuracy": 0.9, "images": 1530}
    for parts, dataset in ((["train"], "/photos"), (["train", "val", "test"], "/photos"), (["train", "val"], "/other")):
        other = Report(replace(saved, training=training | {"parts": parts}), dataset, scores, images)
        assert not other.is_tested_on_train and 'id="parts"' not in other.html()


def test_there_is_no_gap_without_a_validation_on_the_same_data_set(caplog):
    for result in (
        Report(replace(SAVED, metrics={"val_accuracy": 0.5}), "mnist", SOME, IMAGES),
        Report(SAVED, "kmnist", SOME, IMAGES),  # a model without validation accuracy
    ):
        difference, sentence = result.gap
        assert math.isnan(difference) and sentence == ""
        result.log_gap()
    assert not caplog.messages


# --- report.html: its figures are those of report.json and results.json ---


class Tables(HTMLParser):
    """Parses a page; rows: table id -> the data-value of each cell, for each row of the table's body."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.rows: dict[str, list[list[str]]] = {}
        self.table, self.in_body = "", False
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        attrs = dict(attrs)
        if tag == "table":
            self.table = attrs.get("id", "")
            self.rows[self.table] = []
        elif tag in ("tbody", "thead", "tfoot"):
            self.in_body = tag == "tbody"
        elif tag == "tr" and self.in_body:
            self.rows[self.table].append([])
        elif tag in ("td", "th") and self.in_body:
            self.rows[self.table][-1].append(attrs.get("data-value"))


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """A folder with the report of a grid, its report.json and its page; all figures are drawn."""
    folder = tmp_path_factory.mktemp("grid")
    content = page_parts.write(folder, page_parts.write_grid(folder))
    return folder, content, (folder / "report.html").read_text(encoding="utf-8")


def test_every_picture_of_a_report_is_drawn(written):
    for name in ("confusion.png", "mistakes.png"):
        assert cv2.imread(str(written[0] / name)).std() > 10


def test_every_score_is_report_jsons(written):
    _, content, text = written
    rows = Tables(text).rows["scores"]
    for number, (row, expected) in enumerate(zip(rows, content["classes"], strict=True), start=1):
        figures = [expected[name] for name in ("precision", "recall", "f1-score", "support")]
        assert [float(value) for value in row] == [number, *figures]
    assert float(re.search(r'id="accuracy" data-value="([^"]*)"', text)[1]) == content["accuracy"]
    right = sum(content["confusion_matrix"][label][label] for label in range(len(NAMES)))
    assert f"{right} of\n        {COUNT} images right" in text


def test_the_matrix_holds_report_jsons_counts(written):
    _, content, text = written
    counts = dict(re.findall(r'data-cell="(\d,\d)" data-count="(\d+)"', text))
    matrix = content["confusion_matrix"]
    assert counts == {f"{t},{p}": str(n) for t, row in enumerate(matrix) for p, n in enumerate(row) if n}


def test_every_run_is_results_jsons_the_best_first_and_the_failed_last(written):
    folder, _, text = written
    records = Records.read(folder)
    rows = Tables(text).rows["runs"]
    assert [int(row[0]) for row in rows] == [*records.ranked(), 5, 6]
    for row in rows[:-2]:
        best = records.best_of(int(row[0]))
        names = ("lr", "seed", "val_accuracy", "val_f1", "val_loss", "train_accuracy", "epoch")
        assert [float(value) for value in row[1:-1]] == [best[name] for name in names]
        assert float(row[-1]) == records.rows_by_run[best["run"]][-1]["run_duration"]
    assert "failed: the training loss became nan &lt;at&gt; epoch 1" in text
    best_row = r'<tr class="best" aria-current="true"><td class="number" data-value="(\d)"'
    assert re.search(best_row, text)[1] == rows[0][0]
    spreads = [[float(value) for value in row] for row in Tables(text).rows["seeds"]]
    assert spreads == [[each.hyperparameters["lr"], *each[1:]] for each in records.spreads()]


def test_names_are_escaped_and_nothing_is_fetched(written):
    _, _, text = written
    assert "<b>" not in text and "<script>alert" not in text and "a <b> c" not in text
    assert all(html.escape(name).replace("&#x27;", "&#39;").replace("&quot;", "&#34;") in text for name in NAMES)
    addresses = re.findall(r"(?:src|href)=\"([^\"]*)\"|url\(([^)]*)\)", text)
    assert addresses and all(uri.startswith("data:") for pair in addresses for uri in pair if uri)
    assert "default-src 'none'" in text


def test_the_page_shows_how_the_network_was_trained(written):
    _, _, text = written
    command = "<span>python</span> <span>train.py</span> <span>--model</span>"
    for part in (command, "2026-11-26 01:02:03+00:00", "cpu, 2 threads, 2 processes",
                 "18.0 s in\n      4 runs", "--lr", "torch "):  # fmt: skip
        assert part in text


def test_the_page_is_the_same_each_time(written):
    folder, _, text = written
    assert page_parts.make_report(Records.read(folder)).html() == text


@pytest.mark.parametrize("epochs, is_drawn", [(2, True), (1, False)])
def test_curves_need_two_epochs(tmp_path, monkeypatch, epochs, is_drawn):
    monkeypatch.setattr(Figure, "savefig", lambda self, file, **_: file.write(b"not drawn"))
    page = page_parts.make_report(page_parts.write_grid(tmp_path, epochs)).html()
    assert ("data:image/svg+xml;base64," in page) is is_drawn


def test_a_figure_of_very_many_points_is_a_png(tmp_path, monkeypatch):
    monkeypatch.setattr(Figure, "savefig", lambda self, file, **_: file.write(b"not drawn"))
    monkeypatch.setattr(report, "SVG_POINTS", 11)
    page = page_parts.make_report(page_parts.write_grid(tmp_path)).html()  # 4 runs of 3 epochs
    assert "svg+xml" not in page and f"data:image/png;base64,{base64.b64encode(b'not drawn').decode()}" in page


def test_without_records_the_page_has_neither_curves_nor_runs():
    result = page_parts.make_report()
    page = result.html()
    assert "svg+xml" not in page and 'id="runs"' not in page and 'id="learning"' not in page
    assert str(result.content["accuracy"]) in page


def test_records_that_cannot_be_read_are_a_warning(tmp_path, caplog):
    (tmp_path / "results.json").write_text("{}")
    assert report.records_of(SAVED, tmp_path) is None
    assert caplog.messages == [f"{tmp_path / 'results.json'}: is no results file of this version; "
                               "so the page has no curves"]  # fmt: skip


def test_only_the_records_of_the_networks_own_command_are_used(tmp_path):
    best = page_parts.write_grid(tmp_path).best()
    config, metrics = {"lr": best["lr"], "seed": best["seed"]}, {name: best[name] for name in ("epoch", *MEASURES)}
    assert report.records_of(replace(SAVED, config=config, metrics=metrics), tmp_path).best() == best
    assert report.records_of(replace(SAVED, config=config, metrics={"epoch": 1}), tmp_path) is None
    assert report.records_of(SAVED, tmp_path / "empty") is None


def test_the_most_confident_images_of_each_cell_are_chosen():
    scores = page_parts.scores()
    cells = report.images_of_cells(scores, len(NAMES))
    for (truth, predicted), indices in cells.items():
        inside = (scores.labels == truth) & (scores.predictions == predicted)
        expected = sorted(inside.nonzero().flatten().tolist(), key=lambda index: -scores.probabilities[index])
        assert indices == expected[: report.MAX_IMAGES] and expected
    small = sum(len(indices) < report.MAX_IMAGES for indices in cells.values())
    assert 0 < small < len(cells)  # some cells have fewer images, some more


def test_images_that_take_too_much_room_are_compressed_and_finally_left_out():
    cells, images = report.images_of_cells(page_parts.scores(), len(NAMES)), page_parts.images().images

    def encoded(limit: int) -> tuple[set, int, int]:
        uris, shown = report._as_uris(lambda index: pixels_of(images[index]), cells, [COUNT - 1], limit)
        assert COUNT - 1 in uris
        kinds = {re.match(r"data:image/(\w+);", uri)[1] for uri in uris.values()}
        return kinds, max(map(len, shown.values())), sum(map(len, uris.values()))

    kinds, max_images, size = encoded(10**9)
    assert (kinds, max_images) == ({"png"}, report.MAX_IMAGES)
    for limit, expected in ((size - 1, 20), (size // 3, 8), (size // 8, 2), (10_000, 0)):
        kinds, max_images, size_now = encoded(limit)
        assert (kinds, max_images) == ({"webp"}, expected) and size_now <= limit + 2000  # one image above the limit


def test_the_page_of_very_many_classes_has_no_matrix(write, tmp_path):
    classes = [f"c{number}" for number in range(300)]
    labels = [*range(5)]
    saved = replace(SAVED, classes=classes, glyphs=[])
    written = write(make_scores(labels, [0, 2, 1, 3, 299], [0.9] * 5), saved=saved)
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert 'id="matrix"' not in page and 'type="button" data-cell=' not in page
    assert "The table of 300 classes is too large for this page" in page
    assert "c4 read as c299: 1 of 1" in page and page.count("<figure>") == 3 and len(written["confusion_matrix"]) == 300
    assert len(page) < 200_000


@pytest.mark.slow  # noise hardly compresses, and 2,000 images of it take long
def test_the_page_of_the_worst_images_stays_below_4_mb():
    rng = np.random.default_rng(0)
    noise = torch.from_numpy(rng.integers(0, 256, (4000, 3, 32, 32), dtype=np.uint8))
    labels, predictions = torch.from_numpy(rng.integers(0, 10, (2, 4000)))
    scores = SOME._replace(
        labels=labels, predictions=predictions, probabilities=torch.from_numpy(rng.random(4000, np.float32))
    )
    page = Report(SAVED, "kmnist", scores, unlabelled(noise)).html()
    assert 1_000_000 < len(page.encode()) < 4_000_000

    photos = unlabelled(torch.from_numpy(rng.integers(0, 256, (200, 3, 160, 160), dtype=np.uint8)))
    places = [Place("training", index) for index in range(60)]
    check = DataCheck(
        parts=dict.fromkeys(("training", "validation", "test"), photos), total=600, checked=400, suspects=60,
        doubtful=[(place, Suspect(place.index, 0, 1, 0.1, 0.5)) for place in places],
        copies=[Copy("training", index, "test", index, False) for index in range(30)],
        samples=photos.subset(torch.arange(16)), is_distorted=False,
    )  # fmt: skip
    few = scores._replace(labels=labels[:200], predictions=predictions[:200], probabilities=scores.probabilities[:200])
    saved = replace(SAVED, image_size=160, placement={}, mean=[0.5] * 3, std=[0.2] * 3)
    model = LeNet(3, 10, image_size=160).eval()
    page = Report(saved, "kmnist", few, photos, None, model, check).html()
    assert 2_500_000 < len(page.encode()) < 4_000_000 and page.count('class="heat" src') == report.MISTAKES_ON_PAGE


# --- the runs as a table on the terminal ---


def make_records(folder, hyperparameters: list[dict], accuracies: list[float], failed=()) -> Records:
    records = Records({}, hyperparameters, folder)
    for run, accuracy in enumerate(accuracies, start=1):
        row = dict.fromkeys(MEASURES, 0.5) | {"val_accuracy": accuracy, "run_duration": 61.25}
        records.rows_by_run[run] = [{"run": run, "epoch": 1, **row}]
        if run not in failed:
            records.finished.append(run)
    records.failures = dict.fromkeys(failed, "nan")
    return records


def test_runs_are_sorted_by_validation_accuracy_with_a_column_per_swept_name(tmp_path):
    values = [{"lr": 0.1, "shuffle": True, "epochs": 3}, {"lr": 0.2, "shuffle": False, "epochs": 3}]
    lines = runs_table(make_records(tmp_path, values, [0.5, 0.75]), width=80).splitlines()
    assert lines[0].split() == ["run", "lr", "shuffle", "val", "acc", "val", "loss", "train", "acc", "epoch", "seconds"]
    assert lines[2].split() == ["2", "0.2", "off", "0.7500", "0.5000", "0.5000", "1", "61.2"]
    assert lines[3].split()[0] == "1"


def test_a_table_by_f1_has_a_column_for_it(tmp_path):
    values = [{"lr": lr, "monitor": "f1"} for lr in (0.1, 0.2)]
    heading = runs_table(make_records(tmp_path, values, [0.5, 0.75]), width=80).splitlines()[0]
    assert heading.split()[2:6] == ["val", "f1", "val", "acc"]


@pytest.mark.parametrize("names", [3, 12])
@pytest.mark.parametrize("width", [80, 120])
def test_the_table_fits_the_terminal(tmp_path, names, width):
    values = [{f"hyperparameter_{name}": run / 7 for name in range(names)} for run in range(1, 9)]
    table = runs_table(make_records(tmp_path, values, [0.5] * 8), width)
    assert max(map(len, table.splitlines())) <= width
    joined = table.replace(" ", "").replace("\n", "")
    assert all(f"hyperparameter_{name}" in joined for name in range(names)) and "0.5000" in table


def test_a_failed_run_comes_last_and_is_marked(tmp_path):
    values = [{"lr": lr} for lr in (1, 2, 3)]
    *_, last = runs_table(make_records(tmp_path, values, [0.9, 0.5, 0.5], failed=[1]), 80).splitlines()
    assert last.split() == ["1", "1", "failed"]


def test_of_very_many_runs_the_best_are_shown(tmp_path):
    count = MAX_ROWS + 60
    lines = runs_table(make_records(tmp_path, [{"seed": s} for s in range(count)], [0.5] * count), 80).splitlines()
    assert len(lines) == 2 + MAX_ROWS + 1
    assert lines[-1].startswith(" and 60 more in ") and lines[-1].endswith("results.csv")


def test_the_spread_over_seeds_is_a_line_per_group(tmp_path):
    values = [{"lr": lr, "seed": seed} for lr in (0.1, 0.2) for seed in (1, 2)]
    records = make_records(tmp_path, values, [0.5, 0.7, 0.25, 0.25])
    assert spreads_text(records).splitlines() == [
        "    lr=0.1: 0.6000 +- 0.1414 (n = 2)",
        "    lr=0.2: 0.2500 +- 0.0000 (n = 2)",
    ]
    assert spreads_text(make_records(tmp_path, values[:2], [0.5, 0.7])) == "    all: 0.6000 +- 0.1414 (n = 2)"
    assert spreads_text(make_records(tmp_path, values[::2], [0.5, 0.7])) == ""
