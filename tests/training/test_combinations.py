"""train.py with every data set and every network, which epoch is kept, and when training ends."""

import json
import re
from pathlib import Path

import made_up
import pytest
import torch
from conftest import change_dataset, use_few_digits

from neural_lib import checkpoint
from neural_lib.config import RECIPES
from neural_lib.data import catalog
from neural_lib.evaluation.scores import Scores
from neural_lib.networks import build_network
from neural_lib.records import TITLES
from neural_lib.system.errors import UserError
from neural_lib.training import loop

pytestmark = pytest.mark.usefixtures("few_digits")

FAST = ("--epochs", 2, "--batch-size", 16, "--device", "cpu")


@pytest.fixture
def small_data(monkeypatch, tmp_path) -> Path:
    """A data folder with 50 training and 10 test images of every data set, made up but for the digits."""
    sizes = {"train_size": 50, "test_size": 10}
    splits = {split: made_up.make_parts(f"emnist-{split}", **sizes) for split in ("letters", "balanced")}
    for name, info in list(catalog.DATASETS.items()):
        classes = len(info.classes)
        if info.format == "idx":
            files = made_up.make_files(**sizes, classes=classes, size=info.image_size)
        elif name == "cifar10":
            files = made_up.make_cifar_batches(batch_size=10, classes=classes)
        elif name.startswith("emnist"):
            files = made_up.emnist_archive(**splits)
        elif name != "digits":
            files = made_up.official_files(name, made_up.make_parts(name, **sizes))
        else:
            continue
        change_dataset(monkeypatch, name, **made_up.checksums(name, files), **sizes)
        made_up.write_files(files, tmp_path / info.folder)
    use_few_digits(monkeypatch, **sizes)
    return tmp_path


def is_possible(info: catalog.DatasetInfo, arch: str) -> bool:
    """True if the images aren't too small for the network; 28 pixels never are, says test_networks.py."""
    if info.image_size < 28:
        try:
            build_network(arch, numChannels=info.channels, classes=len(info.classes), image_size=info.image_size)
        except UserError:
            return False
    return True


def combinations() -> list[tuple[str, str]]:
    """All data sets and networks that are possible together."""
    infos = catalog.DATASETS.items()
    return [(dataset, arch) for dataset, info in infos for arch in made_up.SMALL_ARCHS if is_possible(info, arch)]


@pytest.mark.few(1)
@pytest.mark.parametrize("dataset, arch", combinations())
def test_every_data_set_trains_with_every_network(run_train, small_data, dataset, arch):
    info = catalog.DATASETS[dataset]
    arguments = ("-d", dataset, "--data", small_data, "--arch", arch, "--recipe", "best", *FAST)
    status, stdout, stderr = run_train(*arguments)
    assert status == 0, stderr
    saved = checkpoint.load("output/model.pth")
    images = torch.zeros(3, info.channels, info.image_size, info.image_size)
    assert saved.build_model()(images).shape == (3, len(info.classes))
    assert (saved.arch, saved.dataset, saved.classes) == (arch, dataset, list(info.classes))
    content = json.loads(Path("output/report.json").read_text())
    assert (content["arch"], content["dataset"], content["images"]) == (arch, dataset, 10)
    titles = [title for column, title in TITLES.items() if column != "val_f1"]  # which is not monitored
    assert ["epoch", *titles, "seconds"] in [re.split(" {2,}", line.strip()) for line in stdout.splitlines()]


@pytest.mark.slow
@pytest.mark.parametrize("network", [["lenet-slim"], ["vgg-small", "--width", 8]], ids=["lenet-slim", "vgg-small"])
def test_colour_images_are_learned(run_train, cifar_dir, network):
    arguments = ("-d", "cifar10", "--data", cifar_dir, "--arch", *network, "--quiet", "--device", "cpu")
    assert run_train(*arguments, "--lr", 0.003, "--epochs", 8, "--batch-size", 16)[0] == 0
    assert checkpoint.load("output/model.pth").metrics["test_accuracy"] > 0.9


@pytest.mark.slow
def test_a_network_with_batch_normalisation_is_repeated_bit_for_bit(run_train, kmnist_dir):
    weights = []
    for name in ("first", "second"):
        arguments = ("--recipe", "best", "--arch", "vgg-small", "--width", 4, *FAST, "-m", f"{name}/m.pth", "--quiet")
        assert run_train("-d", "kmnist", "--data", kmnist_dir, *arguments)[0] == 0
        weights.append(checkpoint.load(f"{name}/m.pth").state_dict)
    assert all(torch.equal(weights[0][key], weights[1][key]) for key in weights[0])


def test_a_network_has_the_width_that_was_given(run_train, small_data):
    arguments = ("-d", "mnist", "--data", small_data, *FAST, "--quiet")
    assert run_train(*arguments, "--arch", "vgg-small", "--width", 8)[0] == 0
    saved = checkpoint.load("output/model.pth")
    assert saved.state_dict["pair3.3.weight"].shape == (32, 32, 3, 3)
    assert saved.build_model().fc.in_features == 32


@pytest.mark.slow
def test_a_grid_of_networks_has_each_ones_own_values_and_is_named_by_the_networks(run_train, small_data):
    arguments = ("-d", "mnist", "--data", small_data, "--recipe", "best", "--arch", "lenet", "vgg-small", *FAST)
    status, stdout, _ = run_train(*arguments)
    assert status == 0
    assert re.search(r"^ run +arch +val acc", stdout, re.MULTILINE)
    rows = json.loads(Path("output/results.json").read_text())["rows"]
    recorded = {row["arch"]: row["lr"] for row in rows}
    expected = {arch: RECIPES["best"].config(arch=arch).lr for arch in ("lenet", "vgg-small")}
    assert recorded == expected and len(set(recorded.values())) == 2
    for number, (arch, value) in enumerate(expected.items(), start=1):
        assert re.search(rf"\[INFO\] run {number} of 2: arch={arch}, .*lr={value}", stdout)


# --- which epoch is best, and when training ends ---


@pytest.mark.slow
@pytest.mark.parametrize("monitor, best_epoch", [("accuracy", 3), ("loss", 2), ("f1", 4)])
def test_the_epoch_that_is_kept_is_the_best_by_what_is_monitored(run_train, monkeypatch, monitor, best_epoch):
    figures = [(0.9, 0.6, 0.5), (0.5, 0.7, 0.6), (0.7, 0.8, 0.7), (0.8, 0.75, 0.8)]  # loss, accuracy, F1
    evaluate = loop.evaluate
    validations = (Scores(*each, *torch.zeros(3, 1).long()) for each in figures)
    monkeypatch.setattr(
        loop, "evaluate", lambda *a, **more: next(validations, None) or evaluate(*a, **more)
    )  # then test
    arguments = ("-d", "digits", "--arch", "lenet-slim", "--epochs", 4, "--batch-size", 128, "--monitor", monitor)
    status, stdout, _ = run_train(*arguments)
    assert status == 0
    saved = checkpoint.load("output/model.pth")
    assert saved.metrics["epoch"] == best_epoch and saved.config["monitor"] == monitor
    assert {"test_loss", "test_accuracy", "test_f1"} <= saved.metrics.keys()
    heading, *rows = stdout.split("training the network")[1].splitlines()[1:6]
    assert ("val f1" in heading) is ("   0.7500   0.8000 " in rows[3]) is (monitor == "f1")
    assert [row.split()[0] for row in rows if row.endswith("  *")][-1] == f"{best_epoch}/4"


def test_patience_ends_a_run_that_gets_no_better(run_train):
    # with that learning rate the first epochs are soon not surpassed any more
    arguments = ("-d", "digits", "--epochs", 200, "--lr", 0.02, "--batch-size", 64, "--device", "cpu")
    status, stdout, _ = run_train(*arguments, "--arch", "lenet-slim", "--patience", 2)
    assert status == 0
    rows = json.loads(Path("output/results.json").read_text())["rows"]
    best = checkpoint.load("output/model.pth").metrics["epoch"]
    assert len(rows) == best + 2 < 200
    assert f"ending early, after {best + 2} of 200 epochs: epoch {best} was the best" in stdout


@pytest.mark.slow
def test_patience_and_monitor_hold_for_a_resumed_grid_too(run_train):
    arguments = ("-d", "digits", "--epochs", 200, "--lr", 0.02, 0.03, "--batch-size", 64, "--device", "cpu")
    arguments = (*arguments, "--patience", 1, "--monitor", "f1")
    assert run_train(*arguments)[0] == 0
    whole = json.loads(Path("output/results.json").read_text())
    Path("output/checkpoint.pth").unlink()
    unfinished = whole | {"finished": [1], "tested": False}
    unfinished["rows"] = [row for row in whole["rows"] if row["run"] == 1]
    first = max((row for row in unfinished["rows"]), key=lambda row: row["val_f1"])
    assert run_train(*arguments[:5], 0.02, *arguments[7:], "-m", "one/model.pth")[0] == 0  # the first run's network
    Path("output/model.pth").write_bytes(Path("one/model.pth").read_bytes())
    Path("output/results.json").write_text(json.dumps(unfinished))
    assert run_train(*arguments, "--resume")[0] == 0
    again = json.loads(Path("output/results.json").read_text())
    timed = {"epoch_duration", "run_duration"}
    assert [row.items() - {(name, row[name]) for name in timed} for row in again["rows"]] == [
        row.items() - {(name, row[name]) for name in timed} for row in whole["rows"]
    ]
    assert first["epoch"] < 200
