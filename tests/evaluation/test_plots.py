from itertools import pairwise

import cv2
import numpy as np
import pytest
import torch
from matplotlib.backend_bases import FigureCanvasBase
from matplotlib.figure import Figure
from matplotlib.offsetbox import AnnotationBbox

from neural_lib.evaluation.plots import (
    MAX_IN_LEGEND,
    colour_scale,
    plot_confusion,
    plot_history,
    plot_results,
    plot_runs,
    to_bytes,
)
from neural_lib.records import MEASURES as COLUMNS
from neural_lib.records import Records
from neural_lib.training import command

MEASURES = ("train_loss", "train_accuracy", "val_loss", "val_accuracy")


def make_rows(epochs: int, offset: float = 0.0) -> list[dict]:
    values = [0.1 + 0.8 / (epoch + 1) + offset for epoch in range(epochs)]
    return [{"epoch": epoch, **dict.fromkeys(MEASURES, value)} for epoch, value in enumerate(values, start=1)]


def test_the_four_curves_on_two_axes():
    figure = plot_history(make_rows(3), best_epoch=2, title="LeNet on KMNIST")
    assert figure.get_suptitle() == "LeNet on KMNIST"
    labels = [[line.get_label() for line in axes.get_lines()] for axes in figure.axes]
    assert labels == [
        ["train_loss", "val_loss", "saved: epoch 2"],
        ["train_accuracy", "val_accuracy", "saved: epoch 2"],
    ]
    for axes in figure.axes:
        assert list(axes.get_lines()[0].get_xdata()) == [1, 2, 3]
        assert list(axes.get_lines()[2].get_xdata()) == [2, 2]


@pytest.mark.parametrize("epochs", [1, 2, 200])
def test_epochs_are_whole_numbers(epochs):
    figure = plot_history(make_rows(epochs), 1, "")
    figure.draw_without_rendering()
    for axes in figure.axes:
        shown = [tick for tick in axes.get_xticks() if axes.get_xlim()[0] <= tick <= axes.get_xlim()[1]]
        assert shown and all(tick == int(tick) for tick in shown)


@pytest.mark.parametrize("suffix", command.PLOT_SUFFIXES)
def test_every_suffix_of_plot_can_be_written(suffix):
    assert suffix[1:] in FigureCanvasBase.filetypes
    small = Figure(figsize=(1, 1), dpi=50)
    small.subplots().plot([1, 2])
    assert len(to_bytes(small, suffix[1:])) > 100


@pytest.mark.slow
def test_the_picture_is_not_blank():
    picture = drawn(plot_history(make_rows(5), 3, "title"))
    assert picture.shape == (540, 1200, 3)
    assert len(np.unique(picture.reshape(-1, 3), axis=0)) > 50


def drawn(figure) -> np.ndarray:
    return cv2.imdecode(np.frombuffer(to_bytes(figure, "png"), np.uint8), cv2.IMREAD_COLOR)


def make_grid(count: int, best: int, **values: object) -> Records:
    """Finished runs of learning rates and of the given values, of which `best` is the most accurate."""
    records = Records(
        dict.fromkeys(["lr", *values], []), [{"lr": run / 1000} | values for run in range(1, count + 1)], None
    )
    records.swept = ["lr", *values]
    for run in range(1, count + 1):
        rows = make_rows(3, offset=run / 100)
        rows = [dict.fromkeys(COLUMNS) | row | {"run": run, "epoch": epoch} for epoch, row in enumerate(rows, start=1)]
        records.rows_by_run[run] = rows
        records.finished.append(run)
    for row in records.rows_by_run[best]:
        row["val_accuracy"] += 0.2
    return records


def assert_legend_is_whole(figure) -> None:
    figure.draw_without_rendering()
    width, height = figure.bbox.size
    legend = figure.legends[0].get_window_extent()
    assert 0 <= legend.x0 < legend.x1 <= width and legend.y0 >= 0
    assert legend.height < height / 2


def test_a_legend_of_long_names_is_not_cut_off():
    values = {"optimizer": "adamw", "weight_decay": 0.05, "label_smoothing": 0.05, "rotation": 10, "shear": 0.1}
    more = {name: 0.000503968 for name in ("elastic", "label_smoothing", "thickness", "warmup", "gamma", "scale")}
    for long in (values, values | more):
        assert_legend_is_whole(plot_runs(make_grid(MAX_IN_LEGEND, 1, **long), ""))


@pytest.mark.parametrize("count", [2, MAX_IN_LEGEND])
def test_a_few_runs_have_a_colour_and_a_name_each_and_the_best_stands_out(count):
    figure = plot_runs(make_grid(count, 2, batch_size=100, shuffle=True), "a grid")
    names = [text.get_text() for text in figure.legends[0].get_texts()]
    assert names == [
        f"run {run}: lr={run / 1000:g}, batch_size=100, shuffle=on" + " (best)" * (run == 2)
        for run in range(1, count + 1)
    ]
    for axes in figure.axes:
        lines = axes.get_lines()
        assert len(lines) == len({line.get_color() for line in lines}) == count
        thick = [line.get_label() for line in lines if line.get_linewidth() > 2]
        assert len(thick) == 1 and thick[0].startswith("run 2:")
    assert_legend_is_whole(figure)


def test_many_runs_share_a_colour_scale_and_only_the_best_is_named():
    runs = range(1, MAX_IN_LEGEND + 11)
    figure = plot_runs(make_grid(len(runs), 3, shuffle=True), "")
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["run 3: lr=0.003, shuffle=on (best)"]
    loss_axes, accuracy_axes, colour_bar = figure.axes
    assert colour_bar.get_ylabel() == "lr" and colour_bar.get_yscale() == "log"  # 0.001 to 0.02
    assert len({line.get_color() for line in loss_axes.get_lines()}) == len(runs)
    assert [line.get_linewidth() > 2 for line in accuracy_axes.get_lines()] == [run == 3 for run in runs]


def test_runs_that_ended_at_different_epochs_are_drawn_to_their_ends():
    records = make_grid(2, best=2)
    records.rows_by_run[1].pop()
    figure = plot_runs(records, "")
    assert sorted(len(line.get_xdata()) for line in figure.axes[0].get_lines()) == [2, 3]


def test_a_confusion_matrix_shows_counts_and_shares_of_the_true_class():
    figure = plot_confusion(torch.tensor([[3, 1], [0, 0]]), ["T-shirt/top", "Bag"], "validation")
    axes = figure.axes[0]
    assert {text.get_text() for text in axes.texts} == {"3\n75.0%", "1\n25.0%"}
    assert [label.get_text() for label in axes.get_xticklabels()] == ["T-shirt/top", "Bag"]
    assert (axes.get_ylabel(), axes.get_xlabel()) == ("true (a row is 100 %)", "predicted")


def test_written_characters_stand_beside_the_names_of_a_confusion_matrix():
    glyphs = ["お", "き", "す"]
    plain, written = (plot_confusion(torch.eye(3).long(), ["a", "b", "c"], "t", each) for each in ((), glyphs))
    boxes = [each for each in written.axes[0].get_children() if isinstance(each, AnnotationBbox)]
    assert len(boxes) == 6 and not any(isinstance(each, AnnotationBbox) for each in plain.axes[0].get_children())
    written.draw_without_rendering()
    inside = written.axes[0].get_window_extent()
    labels = written.axes[0].get_xticklabels() + written.axes[0].get_yticklabels()
    names = [label.get_window_extent() for label in labels]
    for box in boxes:
        place = box.offsetbox.get_window_extent()
        assert not place.overlaps(inside) and not any(place.overlaps(name) for name in names)


SCRIPTS = ["ひらがな", "漢字の長い名前である事のこと", "عربي", "שלום", "🐜🐝", "ไทย", "plain", "$a_{$"]


@pytest.mark.filterwarnings("error")  # matplotlib warns of a character that its font lacks
def test_class_names_and_titles_in_any_script_are_drawn():
    figure = plot_confusion(np.eye(8, dtype=int), SCRIPTS, "写真, test")
    to_bytes(figure, "png")
    axes = figure.axes[0]
    boxes = [each for each in axes.get_children() if isinstance(each, AnnotationBbox)]
    texts = [label.get_text() for label in axes.get_xticklabels()]
    assert texts == ["", "", "عربي", "שלום", "", "", "plain", "$a_{$"]
    assert len(boxes) == 2 * texts.count("") + 1  # at both axes; and the title
    below = sorted((each for each in boxes if each.xycoords == ("data", "axes fraction")), key=lambda box: box.xy[0])
    places = [each.offsetbox.get_window_extent() for each in below]
    assert places[1].height > 50 and places[1].x1 <= places[2].x0  # slanted, so that a long name hides no other
    history = plot_history(make_rows(2), 1, "写真 🐜\nwith label smoothing")
    to_bytes(history, "svg")
    assert history.get_suptitle() == " \nwith label smoothing"


@pytest.mark.few(1)
@pytest.mark.parametrize("classes, text", [(20, "1000\n100.0%"), (21, "1000"), (101, None)])
def test_of_many_classes_each_cell_has_the_text_that_it_has_room_for(classes, text):
    names = [f"a long name {number}" for number in range(classes)]
    figure = plot_confusion(1000 * np.eye(classes, dtype=int), names, "t")
    assert {each.get_text() for each in figure.axes[0].texts} == ({text} if text else set())
    if not text:
        return
    figure.draw_without_rendering()
    cell = figure.axes[0].get_window_extent().width / classes
    places = [label.get_window_extent() for label in figure.axes[0].get_yticklabels()]
    assert all(first.y0 >= second.y1 - 2 for first, second in pairwise(places))
    assert all(each.get_window_extent().width < cell for each in figure.axes[0].texts)


def test_a_single_epoch_has_its_values_as_text():
    row = dict(zip(MEASURES, (0.5, 0.9876, 0.4, 0.9), strict=True)) | {"epoch": 1}
    texts = [[each.get_text() for each in axes.texts] for axes in plot_history([row], 1, "").axes]
    assert texts == [["0.5000", "0.4000"], ["98.76%", "90.00%"]]
    assert not any(axes.texts for axes in plot_history(make_rows(2), 1, "").axes)


@pytest.mark.parametrize("losses", [(0.15, 0.1438), (0.1438, 0.1438), (0.6, 0.001)])
def test_the_values_of_a_single_epoch_keep_away_from_the_frame(losses):
    row = dict(zip(MEASURES, (losses[0], 0.951, losses[1], 0.95), strict=True)) | {"epoch": 1}
    figure = plot_history([row], 1, "")
    figure.draw_without_rendering()
    for axes in figure.axes:
        frame = axes.get_window_extent()
        for text in (each.get_window_extent() for each in axes.texts):
            assert frame.x0 + 5 < text.x0 < text.x1 < frame.x1 - 5 and frame.y0 + 5 < text.y0 < text.y1 < frame.y1 - 5


def test_short_names_are_upright_and_long_ones_slanted():
    for names, rotation in ((["a", "b"], 0), (["T-shirt/top", "b"], 45)):
        axes = plot_confusion(torch.eye(2).long(), names, "t").axes[0]
        assert {label.get_rotation() for label in axes.get_xticklabels()} == {rotation}


def test_a_class_name_is_no_formula():
    figure = plot_confusion(torch.eye(2).long(), ["$a_{$", "b"], "$t_{$")
    figure.draw_without_rendering()  # matplotlib would reject the names as formulas


def test_confusions_are_seen_beside_many_hits():
    matrix = torch.tensor([[990, 9, 1], [30, 969, 1], [1, 1, 998]])
    axes, *bars = plot_confusion(matrix, ["a", "b", "c"], "t").axes
    wrong, right = axes.images
    assert [bar.get_ylabel().partition(",")[0] for bar in bars] == ["wrong", "right"]
    for picture, is_right in ((wrong, False), (right, True)):
        assert np.array_equal(~picture.get_array().mask, np.eye(3, dtype=bool) == is_right)
        shades = picture.norm(picture.get_array().compressed())
        assert shades.max() == 1 and shades.max() - shades.min() > 0.2  # 30 of 1,000 are seen beside 990


@pytest.mark.few(1)
@pytest.mark.parametrize("matrix", [[[5, 0], [0, 5]], [[0, 3], [2, 0]], [[0, 0], [0, 4]], [[0, 0], [0, 0]]])
def test_a_matrix_without_hits_or_without_confusions_is_drawn(matrix):
    figure = plot_confusion(torch.tensor(matrix), ["a", "b"], "t")
    figure.draw_without_rendering()
    counts = {text.get_text().partition("\n")[0] for text in figure.axes[0].texts}
    assert counts == {str(count) for row in matrix for count in row if count}


# --- the results of a command's runs ---


def make_records(values: list[dict], accuracies: list[float]) -> Records:
    records = Records({}, values, None)
    for run, accuracy in enumerate(accuracies, start=1):
        own = {"run": run, **dict.fromkeys(COLUMNS, 0.5), "val_accuracy": accuracy}
        records.rows_by_run[run] = [{**own, "epoch": epoch} for epoch in (1, 2)]
        records.finished.append(run)
    return records


@pytest.mark.parametrize("values, expected", [
    ([{"lr": 0.1, "seed": 1}, {"lr": 0.2, "seed": 2}, {"lr": 0.2, "seed": 3}], ("lr", {1: 0.1, 2: 0.2, 3: 0.2})),
    ([{"seed": 1}, {"seed": 2}, {"seed": 3}], ("seed", {1: 1, 2: 2, 3: 3})),
    ([{"arch": "a", "flip": True}, {"arch": "b", "flip": False}, {"arch": "c", "flip": False}],
     ("best validation accuracy", {1: 0.5, 2: 0.7, 3: 0.6})),
])  # fmt: skip
def test_runs_are_coloured_by_the_swept_number_with_the_most_values(values, expected):
    assert colour_scale(make_records(values, [0.5, 0.7, 0.6])) == expected


def test_one_run_has_its_own_curves_and_a_grid_has_those_of_all_runs():
    alone = plot_results(make_records([{"lr": 0.1}], [0.5]), "")
    assert [line.get_label() for line in alone.axes[0].get_lines()] == ["train_loss", "val_loss", "saved: epoch 1"]
    grid = plot_results(make_records([{"lr": 0.1}, {"lr": 0.2}], [0.5, 0.7]), "")
    assert [text.get_text() for text in grid.legends[0].get_texts()] == ["run 1: lr=0.1", "run 2: lr=0.2 (best)"]


def test_of_very_many_classes_the_figure_stays_of_bounded_size_and_names_some():
    names = [f"class {number}" for number in range(1001)]
    figure = plot_confusion(np.eye(1001, dtype=int), names, "")
    assert max(figure.get_size_inches()) < 50
    axes = figure.axes[0]
    for labels, ticks in ((axes.get_xticklabels(), axes.get_xticks()), (axes.get_yticklabels(), axes.get_yticks())):
        assert [label.get_text() for label in labels] == [names[int(tick)] for tick in ticks]
        assert 80 <= len(ticks) <= 100 and ticks[0] == 0
    assert not axes.texts
