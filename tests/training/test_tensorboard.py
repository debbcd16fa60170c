"""TensorBoard's files, read back with its own reader."""

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from matplotlib.figure import Figure
from torch import nn

import train
from neural_lib.data.catalog import DATASETS
from neural_lib.data.images import ImageTensors, Normalisation, make_loader
from neural_lib.evaluation.scores import Scores
from neural_lib.networks import build_network
from neural_lib.records import MEASURES, TITLES
from neural_lib.training import tensorboard
from neural_lib.training.tensorboard import MAX_NAME, TensorBoard, folder_name

CLASSES = [str(number) for number in range(10)]


def read(folder):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    accumulator = EventAccumulator(str(folder), size_guidance={"histograms": 0, "scalars": 0, "images": 0})
    return accumulator.Reload()


def scalars(folder, tag: str) -> list[tuple[int, float]]:
    return [(event.step, event.value) for event in read(folder).Scalars(tag)]


def one_run(board: TensorBoard | None, label: dict, dropout: float = 0.5) -> nn.Module:
    """Train a network for three epochs, logged by `board` where there is one."""
    torch.manual_seed(0)
    model = build_network("lenet-slim", numChannels=1, classes=10, dropout=dropout)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.25)
    dataset = ImageTensors(torch.arange(40 * 784).view(40, 1, 28, 28).to(torch.uint8), torch.arange(40) % 10)
    loader = make_loader(dataset, 8, Normalisation((0.2,), (0.3,)), shuffle_seed=1)
    if board:
        board.begin_run(label, model, loader, optimizer)
    for epoch, accuracy in ((1, 0.5), (2, 0.75), (3, 0.25)):
        for images, labels in loader:
            optimizer.zero_grad()
            nn.functional.nll_loss(model(images), labels).backward()
            optimizer.step()
        measures = dict.fromkeys(MEASURES, epoch / 10) | {"val_accuracy": accuracy, "epoch_duration": 2.0}
        predictions = torch.full((20,), epoch)
        val = Scores(0.5, accuracy, 0.25, torch.arange(20) % 10, predictions, torch.ones(20))
        if board:
            board.end_epoch(epoch, 40, measures, val, is_best=epoch <= 2)
    if board:
        board.end_run({"epoch": 2, "train_accuracy": 0.2, "val_accuracy": 0.75, "val_loss": 0.2})
    return model


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """One run's folder."""
    logdir = tmp_path_factory.mktemp("runs")
    one_run(TensorBoard(logdir, CLASSES), {"lr": 0.25, "shuffle": True})
    (folder,) = logdir.iterdir()
    return folder


def test_the_folder_is_named_after_the_hyper_parameters(folder):
    assert folder.name == "lr=0.25,shuffle=on"


def test_training_and_validation_share_a_chart(folder):
    tags = {part: read(folder / part).Tags()["scalars"] for part in ("train", "val")}
    assert [f"{part}_{name}" for part, names in tags.items() for name in names] == sorted(
        TITLES, key=lambda column: column.startswith("val_")
    )
    assert {"loss", "accuracy"} <= set(tags["train"]) and {"loss", "accuracy", "f1"} <= set(tags["val"])
    assert scalars(folder / "val", "accuracy") == [(1, 0.5), (2, 0.75), (3, 0.25)]
    assert scalars(folder / "train", "loss") == [(epoch, pytest.approx(epoch / 10)) for epoch in (1, 2, 3)]


def test_speed_and_learning_rate(folder):
    assert scalars(folder, "images_per_second") == [(epoch, 30.0) for epoch in (1, 2, 3)]  # 40 + 20 in 2 s
    assert scalars(folder, "learning_rate") == [(epoch, 0.25) for epoch in (1, 2, 3)]


def test_every_parameter_and_its_gradient_has_a_histogram_each_epoch(folder):
    tags = read(folder).Tags()["histograms"]
    names = [name for name, _ in build_network("lenet-slim", numChannels=1, classes=10).named_parameters()]
    assert sorted(tags) == sorted([*names, *(f"{name}.grad" for name in names)])
    assert [event.step for event in read(folder).Histograms("conv1.weight.grad")] == [1, 2, 3]
    assert read(folder).Histograms("fc1.weight")[0].histogram_value.num == 120 * 192


def test_sample_images_the_graph_and_the_best_epochs_confusion_matrix(folder):
    events = read(folder)
    assert events.Tags()["images"] == ["images", "confusion_matrix"]
    (samples,), (confusion,) = events.Images("images"), events.Images("confusion_matrix")
    assert (samples.width, samples.height) == (8 * 30 + 2, 4 * 30 + 2)  # 32 images with a border of 2 pixels
    assert confusion.step == 2 and confusion.width > 500
    nodes = {node.name for node in events.Graph().node}
    assert any("conv1" in name for name in nodes) and any("fc2" in name for name in nodes)


def test_hyper_parameters_and_best_figures(folder):
    events = read(folder)
    assert {tag: scalars(folder, tag) for tag in events.Tags()["scalars"] if tag.startswith("best/")} == {
        "best/val_accuracy": [(2, 0.75)],
        "best/val_loss": [(2, pytest.approx(0.2))],
        "best/train_accuracy": [(2, pytest.approx(0.2))],
        "best/epoch": [(2, 2.0)],
    }
    from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData

    content = events.summary_metadata["_hparams_/session_start_info"].plugin_data.content
    given = HParamsPluginData.FromString(content).session_start_info.hparams
    assert given["lr"].number_value == 0.25 and given["shuffle"].string_value == "on"


def log_figures(logdir: Path, epochs: range, value: float = 0.5, is_resumed: bool = False) -> None:
    """Log the figures of a run's epochs, and no network."""
    board = TensorBoard(logdir, CLASSES)
    board.begin_run({"lr": 0.25}, done=epochs.start - 1 if is_resumed else None)
    for epoch in epochs:
        board.end_epoch(epoch, 10, dict.fromkeys(MEASURES, value) | {"epoch_duration": 1.0})
    board.close()


def test_a_run_whose_folder_is_taken_gets_a_number(tmp_path):
    for value in (0.25, 0.5, 0.75):
        log_figures(tmp_path, range(1, 4), value)
    folders = sorted(folder.name for folder in tmp_path.iterdir())
    assert folders == ["lr=0.25", "lr=0.25,2", "lr=0.25,3"]
    for name, value in zip(folders, (0.25, 0.5, 0.75), strict=True):
        assert scalars(tmp_path / name / "val", "loss") == [(epoch, value) for epoch in (1, 2, 3)]


def test_a_resumed_run_adds_to_the_files_of_the_last_one(tmp_path):
    log_figures(tmp_path, range(1, 4))
    log_figures(tmp_path, range(1, 3), 0.25)
    log_figures(tmp_path, range(2, 4), 0.75, is_resumed=True)  # epoch 2 is trained again
    assert scalars(tmp_path / "lr=0.25" / "val", "loss") == [(1, 0.5), (2, 0.5), (3, 0.5)]
    assert scalars(tmp_path / "lr=0.25,2" / "val", "loss") == [(1, 0.25), (2, 0.75), (3, 0.75)]
    log_figures(tmp_path, range(1, 4), 1.0, is_resumed=True)  # interrupted within epoch 1
    assert scalars(tmp_path / "lr=0.25,2" / "val", "loss") == [(1, 1.0), (2, 1.0), (3, 1.0)]
    log_figures(tmp_path / "gone", range(2, 4), is_resumed=True)  # whoever deleted the files gets the rest
    assert scalars(tmp_path / "gone" / "lr=0.25" / "val", "loss") == [(2, 0.5), (3, 0.5)]


def test_a_network_that_cannot_be_traced_is_a_warning(tmp_path, caplog, monkeypatch):
    def add_graph(*_):
        raise RuntimeError("it can't be traced")

    monkeypatch.setattr(tensorboard.SummaryWriter, "add_graph", add_graph)
    one_run(TensorBoard(tmp_path, CLASSES), {"lr": 0.25})
    assert caplog.messages == ["TensorBoard will not show the network's graph: it can't be traced"]
    assert len(scalars(tmp_path / "lr=0.25" / "val", "loss")) == 3


def log_confusion(folder: Path, classes: list[str], glyphs: list[str]) -> None:
    board = TensorBoard(folder, classes, glyphs=glyphs)
    board.begin_run({})
    measures = dict.fromkeys(MEASURES, 0.5)
    board.end_epoch(1, 2, measures, Scores(0.5, 0.5, 0.5, torch.tensor([0, 1]), torch.tensor([0, 0]), torch.ones(2)))
    board.end_run({"epoch": 1, **measures})


@pytest.mark.filterwarnings("error")  # matplotlib warns of a character that its font lacks
def test_class_names_in_any_script_are_in_the_confusion_matrix(tmp_path):
    log_confusion(tmp_path, ["ひらがな", "🐝"], [])
    assert read(tmp_path / "run").Tags()["images"] == ["confusion_matrix"]


def test_written_characters_are_in_the_confusion_matrix(tmp_path, monkeypatch):
    drawn = []
    monkeypatch.setattr(tensorboard, "plot_confusion", lambda *arguments: drawn.append(arguments) or Figure((1, 1)))
    log_confusion(tmp_path, ["o", "ki"], ["お", "き"])
    ((_, classes, _, glyphs),) = drawn
    assert (classes, glyphs) == (["o", "ki"], ["お", "き"])


def test_the_command_gives_the_written_characters_to_tensorboard(tmp_path):
    command = SimpleNamespace(logdir=tmp_path, configs=lambda: [1, 2])
    board = train.open_board(command, SimpleNamespace(info=DATASETS["kmnist"]))
    assert (board.classes, board.glyphs) == (DATASETS["kmnist"].classes, DATASETS["kmnist"].glyphs)


def test_a_loader_of_another_data_set_has_no_sample_images(tmp_path):
    board = TensorBoard(tmp_path, CLASSES)
    data = torch.utils.data.TensorDataset(torch.zeros(4, 1, 28, 28), torch.zeros(4).long())
    board.begin_run({"lr": 1}, nn.Linear(2, 2), torch.utils.data.DataLoader(data))
    board.close()
    assert read(tmp_path / "lr=1").Tags()["images"] == []


def test_logging_leaves_the_weights_unchanged(tmp_path):
    logged = one_run(TensorBoard(tmp_path, CLASSES), {"lr": 0.25}).state_dict()
    unlogged = one_run(None, {}).state_dict()
    assert all(torch.equal(logged[name], unlogged[name]) for name in logged)


def test_a_run_without_network_or_validation_is_logged_too(tmp_path):
    board = TensorBoard(tmp_path, CLASSES)
    board.begin_run({})
    measures = dict.fromkeys(MEASURES) | {"train_loss": 0.5, "train_accuracy": 0.5, "epoch_duration": 1.0}
    board.end_epoch(1, 10, measures)
    board.end_run({"epoch": 1, "train_accuracy": 0.5, "val_accuracy": None, "val_loss": None})
    assert scalars(tmp_path / "run" / "train", "loss") == [(1, 0.5)]
    assert read(tmp_path / "run" / "val").Tags()["scalars"] == []


def test_names_of_folders():
    assert folder_name({"lr": 0.001, "shuffle": False}, "") == "lr=0.001,shuffle=off"
    assert folder_name({"epochs": 3}, "best") == "best,epochs=3" and folder_name({}, "") == "run"
    assert len(folder_name({f"hyper_parameter_{name}": 1 for name in range(20)}, "")) == MAX_NAME
