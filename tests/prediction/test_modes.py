"""The modes of predict.py: rows of its table, JSON, annotated pictures and test images, with untrained networks."""

import json
import logging
import os
import sys
from dataclasses import replace
from pathlib import Path

import cv2
import made_up
import numpy as np
import pytest
import torch
from rich.cells import cell_len

from neural_lib.data import pictures
from neural_lib.data.catalog import DATASETS
from neural_lib.data.images import ImageTensors
from neural_lib.data.page import Place
from neural_lib.evaluation import annotate
from neural_lib.evaluation.gradcam import heat_maps
from neural_lib.prediction import modes
from neural_lib.prediction.modes import AnswerTable
from neural_lib.prediction.recogniser import Answer, Candidate, Reading, Recogniser, Source
from neural_lib.system.errors import RunError, UserError

PROBABILITIES = [0.01, 0.05, 0.7, 0.2, 0.02, 0.02, 0.0, 0.0, 0.0, 0.0]


def recogniser_of(dataset: str) -> Recogniser:
    return Recogniser(made_up.make_checkpoint(dataset), torch.device("cpu"))


def answer_for(path: Path, top: int) -> Reading:
    indices = sorted(range(10), key=lambda index: -PROBABILITIES[index])[:top]
    candidates = [Candidate(str(index), PROBABILITIES[index], index, "") for index in indices]
    seen = np.zeros((28, 28), np.uint8)
    return Reading(Source(path), np.zeros((28, 28, 3), np.uint8), 1.0, [Answer(candidates, seen, path)])


# --- the table ---


@pytest.mark.parametrize("dataset", ["kmnist", "cifar10", "digits"])
@pytest.mark.parametrize("top", [1, 2, 3])
def test_the_columns_are_aligned_within_80(dataset, top):
    paths = [Path("a.png"), Path("か" * 50), Path("folder") / f"{'x' * 100}.png"]
    saved = made_up.make_checkpoint(dataset)
    table = AnswerTable(saved, paths, top, width=80)
    titles, rule, *rows = "\n".join(table.format(answer_for(path, top)) for path in paths).split("\n")
    assert set(rule.strip()) == {"-"} and len(rule) == len(titles)
    assert max(map(cell_len, [titles, *rows])) <= 80
    end = cell_len(titles[: titles.index("prob.") + len("prob.")])
    for row, path in zip(rows, paths, strict=True):
        assert cell_len(row[: row.index("70.0%") + len("70.0%")]) == end
        assert saved.display_name(2) in row and row.count("%") == top
        assert path.name[-6:] in row  # a long path is shortened in its middle
    assert rows[0].startswith(" a.png ") and rows[2].startswith(" folde")
    if top == 3:
        assert rows[0].endswith(f"  {saved.display_name(3)} 20.0%, {saved.display_name(1)} 5.0%")


PHOTOS = [f"/data/photos/val/{name}" for name in ("ants/119785936_dd428e40c3.jpg", "bees/2782079948_8d4e94a826.jpg")]


def table_of(paths: list[str], width: int, classes: tuple[str, ...] = ("ants", "bees"), **options: object) -> list[str]:
    """The table of answers to photos, a string for each line."""
    saved = made_up.make_checkpoint("cifar10")
    names = [*classes, *saved.classes[len(classes) :]] if len(classes) > 2 else list(classes)
    table = AnswerTable(replace(saved, classes=names), list(map(Path, paths)), 3, width, **options)
    best = [Candidate(names[index], PROBABILITIES[2 + index], index, "") for index in range(min(3, len(names)))]
    readings = [Reading(Source(Path(path)), answers=[Answer(best, np.zeros((8, 8, 3), np.uint8))]) for path in paths]
    return "\n".join(map(table.format, readings)).split("\n")


def test_the_folder_of_all_pictures_stands_in_the_title_where_paths_are_too_long():
    titles, rule, *rows = table_of(PHOTOS, 70)
    assert titles == " picture in /data/photos/val     label   prob.    next best" and len(rule) == len(titles)
    assert rows == [
        " ants/119785936_dd428e40c3.jpg   ants    70.0%    bees 20.0%",
        " bees/2782079948_8d4e94a826.jpg  ants    70.0%    bees 20.0%",
    ]
    titles, _, *rows = table_of(PHOTOS, 120)
    assert titles.startswith(" picture   ") and [row.split()[0] for row in rows] == PHOTOS  # they fit whole
    titles, _, first, _ = table_of(PHOTOS, 52)
    assert (
        titles.startswith(" picture in /d...s/val  ") and first == " ants/1...428e40c3.jpg  ants    70.0%    bees 20.0%"
    )
    long = Path("/data/of/somebody/who/has/many/folders")
    titles, _, *rows = table_of([str(long / "1.png"), str(long / f"{'2' * 25}.png")], 80)
    assert "picture in /data/of/somebody/who/has/many/folders " in titles and rows[0].startswith(" 1.png ")
    _, _, first, other = table_of([PHOTOS[0], "photos/bee.jpg"], 60)  # have no common folder
    assert first.startswith(" /data/ph...936_dd428e40c3.jpg ") and other.startswith(" photos/bee.jpg ")


def test_long_classes_leave_room_for_the_path():
    names = ("Camponotus pennsylvanicus", "Bombus terrestris lucorum", "Apis mellifera carnica")
    _, _, *rows = table_of([path.rpartition("/")[2] for path in PHOTOS], 80, names)
    assert max(map(len, rows)) <= 80
    assert [row.count("%") for row in rows] == [1, 1]  # not the next best
    assert rows[0].startswith(" 119785936_dd428e40c3.jpg   Camponotus pennsylvanicus   70.0%")
    _, _, *rows = table_of(PHOTOS, 160, names)
    assert [row.count("%") for row in rows] == [3, 3]
    _, _, row = table_of(PHOTOS[:1], 80, ("ants " * 20, "bees " * 20))
    assert len(row) <= 80 and "ants an... ants ants ants" in row


@pytest.mark.parametrize("width", range(6, 60))
def test_a_text_is_shortened_in_its_middle(width):
    for text in ("folder/name-jpg" * 3, "かな/" + "文字" * 9 + "-png", "short"):
        short = annotate.shortened(text, width)
        assert cell_len(short) <= width and (short == text) == (cell_len(text) <= width)
        head, dots, end = short.partition("...")
        assert short == text or (dots and text.startswith(head) and text.endswith(end) and len(head) <= len(end))


def test_on_a_wide_terminal_paths_are_whole():
    long = Path("folder") / f"{'x' * 100}.png"
    assert str(long) in AnswerTable(made_up.make_checkpoint("digits"), [long], 3, 200).format(answer_for(long, 3))


def test_the_number_in_the_table_is_that_of_the_place():
    reading = answer_for(Path("a.png"), 1)
    (answer,) = reading.answers
    table = AnswerTable(made_up.make_checkpoint("digits"), [Path("a.png")], 1, 80, has_pages=True)

    def numbers(*places: Place | None) -> list[list[str]]:
        answers = [replace(answer, place=place) for place in places]
        rows = table.format(replace(reading, answers=answers)).split("\n")[-len(places) :]
        return [row.split()[1:-2] for row in rows]  # between path and class

    assert numbers(None, None, Place(2, 1, 2), Place(14, 3, 4)) == [[], [], ["2"], ["14"]]
    assert numbers(Place(1, 1, 1)) == [[]] and numbers(Place(3, 1, 3)) == [["3"]] and numbers(None) == [[]]


# --- pictures ---


def recognise(names: list[str], output: str | None = None, dataset: str = "digits", **options: object) -> None:
    """Let an untrained network recognise pictures, with predict.py's defaults for what `options` leave out."""
    defaults = {"invert": "auto", "order": "rows", "top": 3, "as_json": False, "show_input": False, "show": False}
    path = Path(output) if output else None
    modes.recognise_pictures(recogniser_of(dataset), pictures.find(names), path, **defaults | options)


@pytest.mark.parametrize("order, calibration, reasons", [
    (None, {}, "less probable than 100%"),
    ("rows", {}, "less probable than 100%, or too long for one"),
    (None, {"temperature": 1.0, "threshold": 9.0, "mean": torch.zeros(60), "directions": torch.zeros(1, 60),
            "outside": [0.0, 1.0], "highest": [0.0, 1.0]}, "less probable than 100%, or unlike the training images"),
])  # fmt: skip
def test_only_what_can_make_an_answer_unsure_is_named(folder, caplog, order, calibration, reasons):
    caplog.set_level(logging.INFO)
    saved = replace(made_up.make_checkpoint("digits"), calibration=calibration)
    reader = Recogniser(saved, torch.device("cpu"), min_probability=1)
    options = {"invert": "auto", "order": order, "top": 3, "as_json": False, "show_input": False, "show": False}
    modes.recognise_pictures(reader, pictures.find(["one.png"]), None, **options)
    assert caplog.messages[-1] == f"recognised 1 of 1 picture, 1 unsure (?: {reasons})"


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    """The current folder, which holds a one, dark on light, and a blank picture."""
    monkeypatch.chdir(tmp_path)
    one = np.full((90, 120), 255, np.uint8)
    cv2.line(one, (60, 15), (58, 75), 0, 6)
    cv2.imwrite("one.png", one)
    cv2.imwrite("blank.png", np.full((50, 50), 255, np.uint8))
    return tmp_path


def test_one_json_object_per_picture(folder, capsys):
    names = ["one.png", "nowhere.png", "blank.png"]
    if sys.platform == "linux":
        names.append(os.fsdecode(b"\xff.png"))  # no UTF-8
    recognise(names, dataset="kmnist", top=2, as_json=True)
    answer, *failures = map(json.loads, capsys.readouterr().out.splitlines())
    assert (answer["path"], len(answer["top"])) == ("one.png", 2)
    assert answer["glyph"] == DATASETS["kmnist"].glyphs[answer["index"]]
    assert [each["path"] for each in failures] == names[1:]
    assert failures[1]["error"] == "no ink found" and all("No such file" in each["error"] for each in failures[::2])


def test_a_blank_box_keeps_its_number_in_json_and_in_the_picture(folder, capsys, monkeypatch):
    page = np.full((500, 700), 240, np.uint8)
    cv2.putText(page, "Ann", (120, 80), cv2.FONT_HERSHEY_SIMPLEX, 2, 30, 5)
    for number in range(8):
        x, y = 100 + number % 4 * 120, 150 + number // 4 * 120
        cv2.rectangle(page, (x, y), (x + 100, y + 100), 60, 3)
        if number not in (0, 5):
            cv2.putText(page, "3", (x + 30, y + 75), cv2.FONT_HERSHEY_SIMPLEX, 2, 30, 5)
    cv2.imwrite("form.png", page)
    drawn, annotate_page = [], annotate.annotate_page
    monkeypatch.setattr(annotate, "annotate_page", lambda *given: drawn.append(given[2]) or annotate_page(*given))
    recognise(["form.png"], "p.png", as_json=True)
    characters = json.loads(capsys.readouterr().out)["characters"]
    numbers = [each.get("number") for each in characters]
    assert numbers[-6:] == [2, 3, 4, 5, 7, 8] and set(numbers[:-6]) == {None} and len(numbers) > 6
    assert [(each["row"], each["column"]) for each in characters[-6:]] == [
        (1, 2),
        (1, 3),
        (1, 4),
        (2, 1),
        (2, 3),
        (2, 4),
    ]
    assert all("box" in each and "top" in each for each in characters)
    assert [text.rpartition(":")[0] for text in drawn[0]] == ["" if each is None else str(each) for each in numbers]


def test_pictures_that_cannot_be_read_are_warned_of(folder, caplog, capsys):
    recognise(["one.png", "blank.png", "no\x1b.png"], "p.png")
    warnings = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert warnings == ["blank.png: no ink found", "no?.png: can't be read (No such file or directory)"]
    assert capsys.readouterr().out.count("one.png") == 1
    assert cv2.imread("p.png").shape == (234, 174, 3)


@pytest.mark.parametrize("names, message", [
    ([], "^there is no picture to recognise; "), (["blank.png"], "^no picture was recognised; see the warnings above$"),
])  # fmt: skip
def test_without_any_answer_nothing_is_written(folder, names, message):
    with pytest.raises(RunError, match=message):
        recognise(names, "p.png")
    assert not Path("p.png").exists()


def test_photos_are_answered_and_characters_recognised(folder, caplog):
    caplog.set_level(logging.INFO)
    for dataset, expected in (("digits", "recognised 1 of 1 picture"), ("cifar10", "answered 1 of 1 picture")):
        recognise(["one.png"], dataset=dataset)
        assert caplog.messages[-1].startswith(expected)
    with pytest.raises(RunError, match="^no picture was answered; see the warnings above$"):
        recognise(["nowhere.png"], dataset="cifar10")


def test_the_window_gets_the_first_page_of_pictures_enlarged(folder, monkeypatch):
    shown = []
    monkeypatch.setattr(annotate, "PAGE", 3)
    monkeypatch.setattr(modes, "show_one_by_one", lambda tiles, title: shown.extend(tiles))
    recognise(["one.png"] * 4, "p.png", show_input=True, show=True)
    assert [tile.shape for tile in shown] == [(2 * 228, 2 * (2 * 168 + 6), 3)] * 3
    assert sorted(path.name for path in folder.glob("p*")) == ["p-page-1.png", "p-page-2.png"]


@pytest.mark.parametrize("dataset, panels", [("digits", 2), ("cifar10", 3)])
def test_only_a_photo_is_shown_with_what_decided(folder, capsys, monkeypatch, dataset, panels):
    drawn, draw_heat = [], annotate.draw_heat
    monkeypatch.setattr(annotate, "draw_heat", lambda *parts: drawn.append(parts) or draw_heat(*parts))
    recognise(["one.png", "one.png"], "p.png", dataset, show_input=True, top=1)
    width = panels * annotate.TILE_WIDTH + (panels - 1) * annotate.MARGIN
    assert cv2.imread("p.png").shape == (234, 2 * (width + 6), 3)
    recogniser = recogniser_of(dataset)
    for seen, heat in drawn:
        assert seen.shape == (32, 32, 3)
        images = torch.from_numpy(seen).permute(2, 0, 1)[None]
        predicted = recogniser.probabilities(images).argmax(dim=1)
        expected = heat_maps(recogniser.model, recogniser.normalise(images), predicted)[0]
        np.testing.assert_allclose(heat, expected, atol=1e-4)
    assert len(drawn) == 2 * (panels == 3)
    capsys.readouterr()
    monkeypatch.setattr("neural_lib.prediction.recogniser.heat_maps", None)  # not called without a picture to draw
    for shown in (True, False):
        recognise(["one.png"], dataset=dataset, as_json=True, show_input=shown)
    with_input, without = capsys.readouterr().out.splitlines()
    assert with_input == without


# --- test images ---


def test_test_images_of_another_number_of_classes_are_refused(monkeypatch):
    saved = recogniser_of("digits").saved
    monkeypatch.setitem(DATASETS, "digits", replace(DATASETS["digits"], classes=("x", "y")))
    with pytest.raises(UserError, match="^digits has 2 classes, and this network 10$"):
        modes.load_test_images(saved, "digits", "nowhere")


def test_test_images_get_the_networks_size(caplog):
    saved = replace(recogniser_of("digits").saved, image_size=32)
    images = modes.load_test_images(saved, "digits", "nowhere").test
    assert images.name(3) == "test[3]" and images.images.shape == (297, 1, 32, 32) and images.labels.shape == (297,)
    assert caplog.messages == ["the images of digits are converted for this model: 28x28 to 32x32 pixels"]


def test_chosen_test_images_are_shown_and_none_twice(folder, caplog, monkeypatch):
    caplog.set_level(logging.INFO)
    shown = []
    monkeypatch.setattr(modes, "show_one_by_one", lambda tiles, title: shown.extend(tiles))
    images = ImageTensors(torch.zeros(10, 1, 28, 28, dtype=torch.uint8), torch.arange(10))
    modes.show_test_images(recogniser_of("kmnist"), images, 10, 42, Path("p.png"), show=True)
    truths = [message.split()[3].strip(",") for message in caplog.messages if message.startswith("ground truth")]
    assert sorted(truths) == sorted(DATASETS["kmnist"].classes) and truths != list(DATASETS["kmnist"].classes)
    assert "1 of 10 right; wrote p.png" in caplog.text  # the same images get the same answer
    assert len(shown) == 10 and cv2.imread("p.png").shape == (2 * 234, 5 * 174, 3)
