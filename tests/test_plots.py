import io

import cv2
import numpy as np
import pytest
from matplotlib.backend_bases import FigureCanvasBase

from neural_lib import plots
from neural_lib.plots import plot_history
from neural_lib.training import History


def make_history(epochs: int) -> History:
    values = [0.1 + 0.8 / (epoch + 1) for epoch in range(epochs)]
    return History(values, values, values, values)


def test_the_four_curves_on_two_axes():
    figure = plot_history(make_history(3), best_epoch=2, title="LeNet on KMNIST")
    assert figure.get_suptitle() == "LeNet on KMNIST"
    labels = [[line.get_label() for line in axes.get_lines()] for axes in figure.axes]
    assert labels == [
        ["train_loss", "val_loss", "saved: epoch 2"],
        ["train_acc", "val_acc", "saved: epoch 2"],
    ]
    for axes in figure.axes:
        assert list(axes.get_lines()[0].get_xdata()) == [1, 2, 3]
        assert list(axes.get_lines()[2].get_xdata()) == [2, 2]


@pytest.mark.parametrize("epochs", [1, 2, 10, 200])
def test_epochs_are_whole_numbers(epochs):
    figure = plot_history(make_history(epochs), 1, "")
    figure.canvas.draw()
    for axes in figure.axes:
        shown = [tick for tick in axes.get_xticks() if axes.get_xlim()[0] <= tick <= axes.get_xlim()[1]]
        assert shown and all(tick == int(tick) for tick in shown)


@pytest.mark.parametrize("suffix", plots.SUFFIXES)
def test_every_promised_ending_can_be_written(suffix):
    assert suffix[1:] in FigureCanvasBase.filetypes
    target = io.BytesIO()
    plot_history(make_history(2), 1, "title").savefig(target, format=suffix[1:])
    assert len(target.getvalue()) > 1000


def test_the_picture_is_not_blank():
    target = io.BytesIO()
    plot_history(make_history(5), 3, "title").savefig(target, format="png")
    picture = cv2.imdecode(np.frombuffer(target.getvalue(), np.uint8), cv2.IMREAD_COLOR)
    assert picture.shape == (540, 1200, 3)
    assert len(np.unique(picture.reshape(-1, 3), axis=0)) > 50
