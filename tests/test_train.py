"""train.py from its command line to its files, on small data."""

import functools
import logging
import math
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import cv2
import made_up
import pytest
import torch
from conftest import ROOT, change_kmnist, shown_on_a_terminal
from one_run import run_of

import train
from neural_lib import checkpoint, records
from neural_lib.config import RECIPES, TrainConfig
from neural_lib.data import catalog
from neural_lib.data.images import ImageTensors, Normalisation, load_images, make_loader
from neural_lib.evaluation import plots, report
from neural_lib.evaluation.scores import evaluate
from neural_lib.networks import build_network
from neural_lib.records import TITLES
from neural_lib.system import devices
from neural_lib.training import state
from neural_lib.training.command import build_configs
from neural_lib.training.loop import train_one_epoch
from neural_lib.training.outputs import log_first_is_best

pytestmark = pytest.mark.usefixtures("few_digits")

FAST = ("--epochs", 2, "--batch-size", 32, "--device", "cpu")
SLIM = (*FAST, "--arch", "lenet-slim")


def test_the_command_line_makes_a_model_and_a_plot(run_script, tmp_path):
    # neither tensorboard, without --logdir, nor a notebook's backend for matplotlib is loaded: here neither can be
    broken = tmp_path / "site" / "tensorboard"
    broken.mkdir(parents=True)
    (broken / "__init__.py").write_text("raise ImportError('broken')")
    outputs = ("--model", "made/here/model.pth", "--plot", "made/plot.png")
    environment = {"PYTHONPATH": os.pathsep.join([str(tmp_path / "site"), str(ROOT)]), "MPLBACKEND": "module://nowhere"}
    small = ("--dataset", "digits", "--arch", "lenet-slim", "--epochs", 1)
    done = run_script("train.py", *small, *outputs, **environment)
    assert done.returncode == 0, done.stderr
    table = done.stdout.split("training the network")[1].splitlines()[1:3]
    more = len(TITLES) - 5  # figures besides the four below and F1, which is not monitored
    titles = [title for column, title in TITLES.items() if column != "val_f1"]
    assert titles[:4] == ["train loss", "train acc", "val loss", "val acc"]
    assert re.split(" {2,}", table[0].strip()) == ["epoch", *titles, "seconds"]
    assert re.fullmatch(rf" +1/1( +\d\.\d{{4}}){{4}}( +\S+){{{more}}} +\d+\.\d  \*", table[1])
    assert len(table[0]) == len(table[1].removesuffix("  *"))
    assert "total time taken to train the model: " in done.stdout
    assert "macro avg" in done.stdout and re.search(r"test accuracy: 0\.\d{4}", done.stdout)
    assert "\r" not in done.stderr  # no bar where stderr is no terminal
    assert checkpoint.load(tmp_path / "made/here/model.pth").dataset == "digits"
    assert cv2.imread(str(tmp_path / "made/plot.png")).std() > 0
    assert sorted(os.listdir(tmp_path)) == ["made", "site"]


def test_kmnist_from_files_to_a_checkpoint_with_the_measured_scores(run_train, kmnist_dir, tmp_path):
    status, stdout, _ = run_train("--dataset", "kmnist", "--data", kmnist_dir, *FAST)
    assert status == 0
    assert "600 images to train on and to validate, 100 to test" in stdout
    assert "450 images to train on, 150 to validate\n" in stdout
    saved = checkpoint.load("output/model.pth")
    info = catalog.DATASETS["kmnist"]
    assert saved.classes == list(info.classes) and saved.config["batch_size"] == 32

    images, labels = load_images("kmnist", kmnist_dir, train=False)[:]
    test_loader = make_loader(ImageTensors(images, labels), 32, Normalisation(saved.mean, saved.std))
    again = evaluate(saved.build_model(), test_loader)
    assert again.accuracy == saved.metrics["test_accuracy"] > 0.5
    assert again.loss == pytest.approx(saved.metrics["test_loss"], rel=1e-6)
    assert f"test accuracy: {again.accuracy:.4f}" in stdout


@pytest.mark.slow  # in processes of their own; test_loop.py and the recipes below repeat runs in this one
def test_the_same_command_twice_gives_the_same_weights_bit_for_bit(tmp_path):
    processes = []
    for name in ("first", "second"):
        outputs = ("-m", f"{name}/model.pth", "-p", f"{name}/plot.png")
        command = [sys.executable, str(ROOT / "train.py"), "-d", "digits", *map(str, FAST), "--quiet", *outputs]
        processes.append(subprocess.Popen(command, cwd=tmp_path, env=os.environ | {"OMP_NUM_THREADS": "2"}))
    assert [process.wait(timeout=100) for process in processes] == [0, 0]
    first, second = (checkpoint.load(tmp_path / name / "model.pth") for name in ("first", "second"))
    assert first.state_dict.keys() == second.state_dict.keys()
    assert all(torch.equal(first.state_dict[name], second.state_dict[name]) for name in first.state_dict)
    assert first.metrics == second.metrics


# --- recipes ---


def logged_values(stdout: str) -> dict[str, str]:
    block = stdout.split("[INFO] recipe ")[1].split("[INFO]")[0]
    return dict(re.findall(r"(\w+)=([^,\s]+)", block))


def test_an_option_wins_over_the_recipe_and_values_that_are_not_the_recipes_are_logged(run_train):
    status, stdout, _ = run_train("-d", "digits", "--recipe", "best", "--epochs", 1, "--rotation", 0, "--device", "cpu")
    assert status == 0
    precision = devices.select_precision("auto", torch.device("cpu"))
    expected = RECIPES["best"].config(dataset="digits", epochs=1, rotation=0.0, precision=precision)
    assert checkpoint.load("output/model.pth").config == expected.to_dict()
    assert logged_values(stdout) == {"epochs": "1", "rotation": "0"}
    assert f"[INFO] all hyper-parameters: {os.path.join('output', 'results.json')}\n" in stdout
    assert "for training only: distorted images, label smoothing" in stdout


@pytest.mark.slow
def test_without_a_recipe_it_is_the_classic_one(run_train):
    run_train("-d", "digits", *FAST)
    assert (
        checkpoint.load("output/model.pth").config == TrainConfig(dataset="digits", epochs=2, batch_size=32).to_dict()
    )


@pytest.mark.slow
@pytest.mark.parametrize("recipe", ["fast", "best"])
def test_the_other_recipes_learn_and_are_repeatable_bit_for_bit(run_train, kmnist_dir, recipe):
    weights = []
    for name in ("first", "second"):
        arguments = ("--recipe", recipe, *FAST, "-m", f"{name}/model.pth", "--quiet")
        assert run_train("-d", "kmnist", "--data", kmnist_dir, *arguments)[0] == 0
        weights.append(checkpoint.load(f"{name}/model.pth"))
    assert weights[0].metrics["test_accuracy"] > 0.9
    assert all(torch.equal(weights[0].state_dict[key], weights[1].state_dict[key]) for key in weights[0].state_dict)


@functools.cache
def weights_after(*arguments: str) -> torch.Tensor:
    """Of an epoch on the digits with these options, as train.py makes a configuration of them."""
    args = train.parse_args(["--arch", "lenet-slim", "--epochs", "1", *arguments])
    images = load_images("digits", "nowhere", train=True)
    run = run_of(*build_configs(args.params, args.recipe, "digits"), images)
    train_one_epoch(run)
    return run.model.state_dict()["fc2.weight"]


@pytest.mark.few(10)
@pytest.mark.parametrize(
    "option, value, same",
    [
        ("--seed", 42, True),
        ("--seed", 43, False),
        ("--shuffle", "off", False),
        ("--optimizer", "sgd", False),
        ("--optimizer", "muon", False),
        ("--optimizer", "adamw", True),  # without weight decay it is Adam
        ("--lr", 2e-3, False),
        ("--schedule", "one-cycle", False),
        ("--schedule", "linear", False),
        ("--weight-decay", 0.1, False),
        ("--label-smoothing", 0.2, False),
        ("--dropout", 0.5, False),
        ("--rotation", 20, False),
        ("--scale", 0.2, False),
        ("--shear", 0.2, False),
        ("--shift", 2, False),
        ("--elastic", 1, False),
        ("--thickness", 0.5, False),
        ("--gamma", 0.5, False),
        ("--zoom", 0.5, False),
        ("--color", 0.5, False),
        ("--precision", "bf16", False),
        ("--class-weights", "balanced", False),
    ],
)
def test_every_option_has_its_effect_on_the_weights(option, value, same):
    assert torch.equal(weights_after(option, str(value)), weights_after()) is same


def test_recipes_differ_in_no_parameter_of_their_network():
    def shapes(dropout: float) -> dict:
        network = build_network("lenet", numChannels=1, classes=10, dropout=dropout)
        return {name: value.shape for name, value in network.state_dict().items()}

    assert all(shapes(recipe.config().dropout) == shapes(0.5) for recipe in RECIPES.values())


def test_emulated_bfloat16_works_and_warns(run_train, kmnist_dir, monkeypatch):
    monkeypatch.setattr(devices, "computes_bfloat16", lambda device: False)
    small = ("-d", "kmnist", "--data", kmnist_dir, "--arch", "lenet-slim", "--epochs", 1, "--device", "cpu")
    status, _, stderr = run_train(*small, "--precision", "bf16")
    assert status == 0
    assert "[WARNING] --precision bf16: the cpu is not known to compute bf16 natively; fp32 may be faster\n" in stderr


def test_compile_hands_the_network_to_torchs_compiler(run_train, monkeypatch):
    """To one that translates nothing here, so that it takes no time."""
    seen = []

    def translated(call, **_):
        return lambda images: (seen.append(len(images)), call(images))[1]

    monkeypatch.setattr(torch, "compile", translated)
    assert run_train("-d", "digits", *SLIM, "--epochs", 1, "--compile")[0] == 0
    assert sum(seen) == 225 + 75  # images to train on and to validate


@pytest.mark.slow
def test_a_compiled_network_is_saved_like_any_other(run_train):
    if not (shutil.which("g++") or shutil.which("clang++")):
        pytest.skip("no C++ compiler here")
    assert run_train("-d", "digits", *FAST, "--compile")[0] == 0
    saved = checkpoint.load("output/model.pth")
    assert saved.state_dict.keys() == saved.build_model().state_dict().keys()
    assert saved.metrics["test_accuracy"] > 0.5


@pytest.mark.slow
def test_a_compiled_network_can_be_watched(run_train):
    if not (shutil.which("g++") or shutil.which("clang++")):
        pytest.skip("no C++ compiler here")
    assert run_train("-d", "digits", "--epochs", 1, "--device", "cpu", "--compile", "--logdir", "runs")[0] == 0


@pytest.mark.slow
def test_no_compiler_is_one_line(run_script, tmp_path):
    empty = {"PATH": str(tmp_path), "CXX": "", "TORCHINDUCTOR_CACHE_DIR": str(tmp_path / "cache")}
    done = run_script("train.py", "-d", "digits", *FAST, "--compile", **empty)
    assert done.returncode == 1
    error = done.stderr.splitlines()[-1]
    assert error.startswith("train.py: error: --compile: torch.compile fails here") and "leave that option out" in error


@pytest.mark.slow
def test_quiet_logs_warnings_only(run_train, kmnist_dir, monkeypatch):
    for gap, warnings in ((1.0, 0), (-1.0, 1)):  # no gap is worth a warning; every gap is
        monkeypatch.setattr(report, "GAP_WORTH_A_WARNING", gap)
        monkeypatch.setattr(report.Report, "is_gap_by_chance", False)
        command = ("-d", "kmnist", "--data", kmnist_dir, *SLIM, "--quiet", "-m", f"{warnings}/model.pth")
        status, stdout, stderr = run_train(*command)
        assert (status, stdout, stderr.count("\n")) == (0, "", warnings)
        assert all(line.startswith("[WARNING] ") for line in stderr.splitlines())


@pytest.mark.parametrize("target, status", [(0.2, 0), (1.0, 1)])
def test_the_accuracy_gate(run_train, target, status):
    outcome, _, stderr = run_train("-d", "digits", *SLIM, "--lr", 0.01, "--target-accuracy", target)
    assert outcome == status
    assert ("is below --target-accuracy 1.0" in stderr) is (status == 1)
    assert os.path.exists("output/model.pth") and os.path.exists("output/plot.png")


def test_validation_and_test_apart_are_a_warning(run_train, made_up_kmnist, monkeypatch, tmp_path):
    labels = made_up_kmnist["t10k-labels-idx1-ubyte"]
    files = made_up_kmnist | {"t10k-labels-idx1-ubyte": labels[:8] + labels[:7:-1]}  # the test labels in another order
    change_kmnist(monkeypatch, sha256=made_up.sha256(files))
    made_up.write_files(files, tmp_path / "data" / "KMNIST" / "raw")
    _, _, stderr = run_train("-d", "kmnist", *SLIM, "--lr", 0.01)
    assert re.search(r"\[WARNING\] validation accuracy .* points apart: KMNIST's test images differ", stderr)


@pytest.mark.slow
@pytest.mark.usefixtures("few_digits")
def test_the_first_of_many_epochs_that_is_the_best_is_a_hint_at_the_learning_rate(run_train, monkeypatch, caplog):
    for module in (records, state):
        monkeypatch.setattr(module, "monitored_score", lambda row, *_: -row["epoch"])
    hint = "epoch 1 of 5 validated best: try a lower --lr"
    assert run_train("-d", "digits", *SLIM, "--epochs", 5)[1].count(f"[INFO] {hint}\n") == 1
    monkeypatch.setattr(logging.getLogger("neural_lib"), "propagate", True)
    caplog.set_level("INFO")
    rows = [{"epoch": epoch, "val_accuracy": 0.5} for epoch in range(1, 4)]
    init = [{"epoch": 0, "val_accuracy": 0.5}, *rows]
    perfect = {"epoch": 1, "val_accuracy": 1.0}
    log_first_is_best(rows, rows[0], 5)
    assert caplog.messages == [hint]
    for given in (
        (rows, rows[0], 4),
        (rows, rows[1], 5),
        (rows[:1], rows[0], 5),
        (init, rows[0], 5),
        (init, init[0], 5),
    ):
        log_first_is_best(*given)
    log_first_is_best([perfect, *rows[1:]], perfect, 5)
    assert caplog.messages == [hint]


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="pseudo-terminals are Unix's")
def test_a_terminal_of_80_columns_gets_a_bar_that_goes_away(tmp_path):
    shown = shown_on_a_terminal(["-d", "digits", "--epochs", "1", "-b", "4"], tmp_path, log_too=False)
    bars = [bar for bar in shown.split("\r") if bar.startswith("epoch 1/1")]
    assert any(
        re.search(r"1/1 \|.{15,}\| loss \d\.\d{3}, acc \d\.\d{3}, \d\d:\d\d left, run \d\d:\d\d", bar) for bar in bars
    )
    assert max(map(len, bars)) <= 80
    after = shown.rsplit("epoch 1/1", 1)[1].split("\r")[1:]
    assert after[0].strip() == ""  # blanked out, so that the log lines take its place
    assert "runs " not in shown  # there is one run alone


# --- data that can't be downloaded ---


def test_a_given_data_set_that_cannot_be_downloaded_is_one_error(run_train, no_network):
    status, _, stderr = run_train("--dataset", "kmnist", *FAST)
    assert status == 1
    error = stderr.splitlines()[-1]
    assert error.startswith("train.py: error: KMNIST could not be loaded: no source delivered the files (")
    for part in ("first.example: no route to host", "second.example: no route", os.path.join("data", "KMNIST", "raw"),
                 *made_up.make_files(), "--dataset digits"):  # fmt: skip
        assert part in error
    assert not os.path.exists("output/model.pth")


@pytest.mark.slow
def test_without_dataset_the_run_goes_on_with_digits_and_says_so(run_train, no_network, monkeypatch):
    titles = []
    plot = plots.plot_results
    monkeypatch.setattr(plots, "plot_results", lambda *args: titles.append(args[-1]) or plot(*args))
    status, _, stderr = run_train(*SLIM)
    assert status == 0
    warning = "this run uses digits, NOT kmnist, which could not be loaded"
    assert warning.upper() in stderr.split("points apart")[0]
    banner = stderr.split("=" * 78)[1]
    assert max(map(len, banner.splitlines())) <= 80
    assert all(name in banner for name in made_up.make_files())  # each in one piece
    assert stderr.splitlines()[-1] == f"[WARNING] {warning}"
    assert checkpoint.load("output/model.pth").dataset == "digits"
    assert "digits" in titles[-1]
    status, _, stderr = run_train(*SLIM, "--resume", "--target-accuracy", 0.01)
    assert status == 0  # of the digits, which this command was begun with
    status, _, stderr = run_train(*SLIM, "--model", "gate/model.pth", "--target-accuracy", 0.01)
    assert status == 1 and stderr.splitlines()[-1] == f"[ERROR] {warning}"


@pytest.mark.slow
def test_the_fallback_replaces_only_a_network_for_digits(run_train, kmnist_dir, no_network):
    assert run_train("--data", kmnist_dir, *SLIM)[0] == 0
    for content in (Path("output/model.pth").read_bytes(), Path("output/model.pth").read_bytes()[:-9]):  # damaged
        Path("output/model.pth").write_bytes(content)
        status, _, stderr = run_train("--data", "a-wrong-folder", *SLIM)
        assert status == 1 and stderr.count("\n") == 1
        assert "with --dataset digits, and with another --model if the network in this one is to stay" in stderr
        assert Path("output/model.pth").read_bytes() == content
    Path("output/model.pth").unlink()
    assert [run_train("--data", "a-wrong-folder", *SLIM)[0] for _ in range(2)] == [0, 0]


def test_a_data_folder_that_cannot_be_written_is_no_obstacle_to_the_digits(run_train, tmp_path):
    (tmp_path / "a-file").touch()
    status, _, stderr = run_train(*SLIM, "--data", "a-file")
    assert status == 0 and "nothing can be put into a-file" in stderr
    assert run_train(*FAST, "--data", "a-file", "--dataset", "kmnist")[0] == 1


def test_a_damaged_file_stops_the_run_even_without_dataset(run_train, kmnist_dir):
    path = kmnist_dir / "KMNIST" / "raw" / "train-images-idx3-ubyte"
    path.write_bytes(path.read_bytes()[:-1])
    status, _, stderr = run_train("--data", kmnist_dir)
    assert status == 2
    assert f"{path}: damaged" in stderr


# --- a loss that becomes NaN ---


class LossThatBreaks(torch.nn.NLLLoss):
    """NaN from the n-th training batch on."""

    batches, at = 0, 0

    def forward(self, log_probs, labels):
        if log_probs.requires_grad:
            type(self).batches += 1
        return super().forward(log_probs, labels) * (math.nan if self.batches >= self.at else 1)


@pytest.mark.parametrize(
    "at, epoch, step, kept", [(20, 2, 5, "output/model.pth keeps epoch 1"), (1, 1, 1, "was not written")]
)
def test_a_nan_loss_ends_the_run_and_keeps_the_last_good_model(
    run_train, kmnist_dir, monkeypatch, at, epoch, step, kept
):
    monkeypatch.setattr(torch.nn, "NLLLoss", type("Loss", (LossThatBreaks,), {"at": at}))
    status, _, stderr = run_train("-d", "kmnist", "--data", kmnist_dir, *SLIM)  # 15 steps an epoch
    assert status == 1
    assert f"the training loss became nan at epoch {epoch}, step {step}; " in stderr
    assert kept in stderr and "lower --lr" in stderr
    if epoch == 2:
        saved = checkpoint.load("output/model.pth")
        assert saved.metrics["epoch"] == 1 and all(value.isfinite().all() for value in saved.state_dict.values())
    else:
        assert not os.path.exists("output/model.pth")


@pytest.mark.parametrize("batch_size, loss", [(32, r"training loss became (nan|inf) at epoch 1, step \d+"),
                                              (225, r"validation loss became (nan|inf) at epoch 1")])  # fmt: skip
def test_a_learning_rate_far_too_high_ends_in_one_line(run_train, batch_size, loss):
    # in batches of all images the only training loss comes before the weights are ruined
    status, _, stderr = run_train("-d", "digits", *SLIM, "--lr", 1e30, "--batch-size", batch_size)
    assert status == 1
    advice = r"try a lower --lr than 1e\+30; output.model.pth was not written"
    assert re.fullmatch(rf"train.py: error: the {loss}; {advice}\n", stderr)
    assert not os.path.exists("output/model.pth")


# --- the process ---


@pytest.mark.slow
def test_a_reader_that_goes_away_ends_the_run_quietly(tmp_path):
    command = [sys.executable, "-u", str(ROOT / "train.py"), "-d", "digits", "--arch", "lenet-slim", "--epochs", "9"]
    process = subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    process.stdout.readline()
    process.stdout.close()
    assert (process.stderr.read(), process.wait()) == ("", 1)


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has CUDA")
def test_a_device_that_is_not_there_is_refused_in_one_line(run_train):
    status, stdout, stderr = run_train("--device", "cuda", "-m", "new/model.pth")
    assert (status, stdout, stderr.count("\n")) == (2, "", 1)
    assert stderr.startswith("train.py: error: --device cuda: ") and not os.path.exists("new")


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device on this machine")
def test_a_gpu_trains_and_predicts(run_script):
    for command in (["train.py", "-d", "digits", "--device", "cuda"], ["predict.py", "--device", "cuda", "--no-show"]):
        done = run_script(*command)
        assert done.returncode == 0, done.stderr
        assert "on cuda" in done.stdout


@pytest.mark.slow
def test_a_terminal_without_the_letters_of_a_path_still_shows_it(run_python):
    done = run_python(ROOT / "train.py", "-d", "digits", "--epochs", 1, "--model", "お/m.pth", PYTHONIOENCODING="ascii")
    assert done.returncode == 0, done.stderr
    assert "open \\u304a/report.html" in done.stdout.replace(os.sep, "/").replace("//u", "\\u")
