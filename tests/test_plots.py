import io

import cv2
import numpy as np
import pytest
import torch
from matplotlib.backend_bases import FigureCanvasBase

from neural_lib import plots
from neural_lib.plots import MOST_IN_LEGEND, Scale, plot_confusion, plot_history, plot_runs

MEASURES = ("train_loss", "train_accuracy", "val_loss", "val_accuracy")


def make_rows(epochs: int, offset: float = 0.0) -> list[dict]:
    return [dict.fromkeys(MEASURES, 0.1 + 0.8 / (epoch + 1) + offset) for epoch in range(epochs)]


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


@pytest.mark.parametrize("epochs", [1, 2, 10, 200])
def test_epochs_are_whole_numbers(epochs):
    figure = plot_history(make_rows(epochs), 1, "")
    figure.canvas.draw()
    for axes in figure.axes:
        shown = [tick for tick in axes.get_xticks() if axes.get_xlim()[0] <= tick <= axes.get_xlim()[1]]
        assert shown and all(tick == int(tick) for tick in shown)


@pytest.mark.parametrize("suffix", plots.SUFFIXES)
def test_every_promised_ending_can_be_written(suffix):
    assert suffix[1:] in FigureCanvasBase.filetypes
    target = io.BytesIO()
    plot_history(make_rows(2), 1, "title").savefig(target, format=suffix[1:])
    assert len(target.getvalue()) > 1000


def test_the_picture_is_not_blank():
    target = io.BytesIO()
    plot_history(make_rows(5), 3, "title").savefig(target, format="png")
    picture = cv2.imdecode(np.frombuffer(target.getvalue(), np.uint8), cv2.IMREAD_COLOR)
    assert picture.shape == (540, 1200, 3)
    assert len(np.unique(picture.reshape(-1, 3), axis=0)) > 50


SCALE = Scale("lr", {run: run / 1000 for run in range(1, 100)})


def drawn(figure) -> np.ndarray:
    target = io.BytesIO()
    figure.savefig(target, format="png")
    return cv2.imdecode(np.frombuffer(target.getvalue(), np.uint8), cv2.IMREAD_COLOR)


def make_runs(count: int) -> tuple[dict, dict]:
    runs = {run: make_rows(3, offset=run / 100) for run in range(1, count + 1)}
    return runs, {run: f"lr={run / 1000:g}, batch_size=100, shuffle=on" for run in runs}


def assert_legend_is_whole(figure) -> None:
    picture = drawn(figure)
    legend = figure.legends[0].get_window_extent()
    assert 0 <= legend.x0 < legend.x1 <= picture.shape[1] and legend.y0 >= 0
    assert legend.height < picture.shape[0] / 2


def test_a_legend_of_long_names_is_not_cut_off():
    runs, _ = make_runs(MOST_IN_LEGEND)
    name = "optimizer=adamw, lr=0.000503968, weight_decay=0.05, label_smoothing=0.05, rotation=10, scale=0.1, shear=0.1"
    for names in ({run: name for run in runs}, {run: f"{name}, elastic=0.5, {name}" for run in runs}):
        assert_legend_is_whole(plot_runs(runs, names, best=1, title="", scale=SCALE))


@pytest.mark.parametrize("count", [2, 8, MOST_IN_LEGEND])
def test_a_few_runs_have_a_colour_and_a_name_each_and_the_best_stands_out(count):
    figure = plot_runs(*make_runs(count), best=2, title="a grid", scale=SCALE)
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
    runs, names = make_runs(MOST_IN_LEGEND + 10)
    figure = plot_runs(runs, names, best=3, title="", scale=Scale("lr", {run: run / 1000 for run in runs}))
    assert [text.get_text() for text in figure.legends[0].get_texts()] == [f"run 3: {names[3]} (best)"]
    loss_axes, accuracy_axes, colour_bar = figure.axes
    assert colour_bar.get_ylabel() == "lr" and colour_bar.get_yscale() == "log"  # 0.001 to 0.02
    assert len({line.get_color() for line in loss_axes.get_lines()}) == len(runs)
    assert [line.get_linewidth() > 2 for line in accuracy_axes.get_lines()] == [run == 3 for run in runs]


def test_runs_that_ended_at_different_epochs_are_drawn_to_their_ends():
    runs = {1: make_rows(2), 2: make_rows(5)}
    figure = plot_runs(runs, {1: "epochs=2", 2: "epochs=5"}, best=2, title="", scale=SCALE)
    assert sorted(len(line.get_xdata()) for line in figure.axes[0].get_lines()) == [2, 5]


def test_a_confusion_matrix_shows_counts_and_shares_of_the_true_class():
    import torch

    figure = plot_confusion(torch.tensor([[3, 1], [0, 0]]), ["T-shirt/top", "Bag"], "validation")
    axes = figure.axes[0]
    assert {text.get_text() for text in axes.texts} == {"3\n75.0%", "1\n25.0%"}
    assert [label.get_text() for label in axes.get_xticklabels()] == ["T-shirt/top", "Bag"]
    assert (axes.get_ylabel(), axes.get_xlabel()) == ("true (a row is 100 %)", "predicted")


def test_written_characters_stand_beside_the_names_of_a_confusion_matrix():
    from matplotlib.offsetbox import AnnotationBbox

    glyphs = [np.full((12, 10, 4), 255, np.uint8)] * 3
    plain, written = (plot_confusion(torch.eye(3).long(), ["a", "b", "c"], "t", each) for each in ((), glyphs))
    boxes = [each for each in written.axes[0].get_children() if isinstance(each, AnnotationBbox)]
    assert len(boxes) == 6 and not any(isinstance(each, AnnotationBbox) for each in plain.axes[0].get_children())
    written.canvas.draw()
    inside = written.axes[0].get_window_extent()
    labels = written.axes[0].get_xticklabels() + written.axes[0].get_yticklabels()
    names = [label.get_window_extent() for label in labels]
    for box in boxes:
        place = box.offsetbox.get_window_extent()
        assert not place.overlaps(inside) and not any(place.overlaps(name) for name in names)


def test_short_names_are_upright_and_long_ones_slanted():
    for names, rotation in ((["a", "b"], 0), (["T-shirt/top", "b"], 45)):
        axes = plot_confusion(torch.eye(2).long(), names, "t").axes[0]
        assert {label.get_rotation() for label in axes.get_xticklabels()} == {rotation}


def test_a_class_name_is_no_formula():
    figure = plot_confusion(torch.eye(2).long(), ["$a_{$", "b"], "$t_{$")
    figure.savefig(io.BytesIO(), format="png")  # matplotlib would refuse it as mathematics


def test_confusions_are_seen_beside_many_hits():
    matrix = torch.tensor([[990, 9, 1], [30, 969, 1], [1, 1, 998]])
    axes, *bars = plot_confusion(matrix, ["a", "b", "c"], "t").axes
    wrong, right = axes.images
    assert [bar.get_ylabel().partition(",")[0] for bar in bars] == ["wrong", "right"]
    for picture, is_right in ((wrong, False), (right, True)):
        assert np.array_equal(~picture.get_array().mask, np.eye(3, dtype=bool) == is_right)
        shades = picture.norm(picture.get_array().compressed())
        assert shades.max() == 1 and shades.max() - shades.min() > 0.2  # 30 of 1,000 beside 990


@pytest.mark.parametrize("matrix", [[[5, 0], [0, 5]], [[0, 3], [2, 0]], [[0, 0], [0, 4]], [[0, 0], [0, 0]]])
def test_a_matrix_without_hits_or_without_confusions_is_drawn(matrix):
    assert len(np.unique(drawn(plot_confusion(torch.tensor(matrix), ["a", "b"], "t")))) > 10
