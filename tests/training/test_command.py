import argparse
import contextlib
import os
import re
import shutil
from dataclasses import fields
from pathlib import Path

import pytest

import train
from neural_lib.checkpoint import archive_bytes, load_archive
from neural_lib.config import RECIPES, TrainConfig, add_hyperparameters, format_value, option_name
from neural_lib.records import MEASURES
from neural_lib.system import cli
from neural_lib.system.errors import UserError
from neural_lib.training.command import MAX_RUNS, Command, build_configs, prepare
from neural_lib.training.progress import STATE_FORMAT, Progress, load_saved
from neural_lib.training.runs import RunManager

# --- the runs ---


def configs(*arguments: object) -> list[TrainConfig]:
    args = train.parse_args([str(argument) for argument in arguments])
    return build_configs(args.params, args.recipe, args.dataset or TrainConfig.dataset)


def test_every_hyper_parameter_has_an_option_and_there_is_no_other():
    names = [field.name for field in fields(TrainConfig) if field.name != "dataset"]
    for name in names:
        value = getattr(TrainConfig(), name)
        is_flag = name in ("writing", "labels_from_names")
        given = train.parse_args([option_name(name), *([] if is_flag else [format_value(value)])])
        assert given.params == {name: [is_flag or value]}
    parser = argparse.ArgumentParser(add_help=False)
    add_hyperparameters(parser)
    options = re.findall(r"^  (?:-\w.*?, )?(--[a-z][a-z-]*)", parser.format_help(), re.MULTILINE)
    assert options == ["--recipe", *map(option_name, names)]


def test_no_option_is_one_run_with_the_defaults():
    assert configs() == [TrainConfig()]
    assert configs("--recipe", "best", "-d", "digits") == [RECIPES["best"].config(dataset="digits")]


def test_several_values_are_a_grid_in_the_order_in_which_the_options_are_given():
    grid = configs("--lr", 0.1, 0.2, "--shuffle", "on", "off", "-b", 16)
    assert [(each.lr, each.shuffle, each.batch_size) for each in grid] == [
        (0.1, True, 16), (0.1, False, 16), (0.2, True, 16), (0.2, False, 16),
    ]  # fmt: skip
    grid = configs("--shuffle", "on", "off", "--lr", 0.1, 0.2)
    assert [(each.shuffle, each.lr) for each in grid] == [(True, 0.1), (True, 0.2), (False, 0.1), (False, 0.2)]


def test_an_option_given_again_replaces_what_was_given_before():
    assert [each.lr for each in configs("--lr", 0.1, 0.2, "--seed", 1, "--lr", 0.3)] == [0.3]
    assert configs() == [TrainConfig()]  # nothing of one command is left for the next


def test_networks_can_be_compared_too():
    assert [each.arch for each in configs("--arch", "lenet", "lenet-slim")] == ["lenet", "lenet-slim"]


@pytest.mark.parametrize("arguments, message", [
    (["--lr"], "argument --lr: expected at least one argument"),
    (["--lr", ""], "argument --lr: invalid float value: ''"),
    (["--lr", "0.1", "high"], "argument --lr: invalid float value: 'high'"),
    (["--batch-size", "64", "1e2"], "argument -b/--batch-size: invalid int value: '1e2'"),
    (["--lr", "0.1", "0.10"], "--lr 0.1 is given twice"),
    (["--shuffle", "on", "on"], "--shuffle on is given twice"),
    (["--lr", "0.1", "0"], "--lr must be a finite number above 0, not 0.0"),
    (["--batch-size", "64", "45001"], "--batch-size 45001 is larger than the 45,000 images"),
    (["--shift", "1", "9"], "--shift 9.0 is too far for kmnist's images"),
    (["--precision", "fp32", "fp8"], "argument --precision: invalid choice: 'fp8'"),
])  # fmt: skip
def test_a_bad_value_among_good_ones_is_named_with_its_option(arguments, message):
    with pytest.raises(UserError) as caught:
        configs(*arguments)
    assert message in str(caught.value)


# --- refused before torch is loaded ---


@pytest.fixture
def refusal(tmp_path, monkeypatch, capfd):
    """Run train.py in an empty folder, in this process; returns the one line with which it refuses the arguments."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(train, "tune_for_cpu", lambda: pytest.fail("not refused before torch is loaded"))

    def run(*arguments: object) -> str:
        status = cli.run(train.main, "train.py", [str(argument) for argument in arguments])
        stdout, stderr = capfd.readouterr()
        assert (status, stdout, stderr.count("\n")) == (2, "", 1)
        assert stderr.startswith("train.py: error: ")
        return stderr

    return run


@pytest.mark.parametrize("arguments, message", [
    (["--epochs", "-1"], "--epochs must be a whole number of at least 0, not -1"),
    (["--epochs", "0"], "--epochs 0: nothing would be learned; give 1 or more, or --init with weights to begin from"),
    (["--init", "imagenet", "--arch", "lenet"], "--init imagenet: there are no such weights for lenet; give --arch"),
    (["--recipe", "photos"], "--recipe photos: for photos of yours, --dataset FOLDER, not for KMNIST"),
    (["--epochs", "two"], "--epochs: invalid int value: 'two'"),
    (["--batch-size", "0"], "--batch-size must be a whole number of at least 1, not 0"),
    (["--batch-size", "45001"], "--batch-size 45001 is larger than the 45,000 images of kmnist"),
    (["-d", "digits", "--batch-size", "1126"], "--batch-size 1126 is larger than the 1,125 images of digits"),
    (["--lr", "0"], "--lr must be a finite number above 0, not 0.0"),
    (["--lr", "nan"], "--lr must be a finite number above 0, not nan"),
    (["--train-split", "1"], "--train-split must be between 0 and 1, both excluded, not 1.0"),
    (["--train-split", "0.00001"], "--train-split 1e-05 leaves 0 of kmnist's 60,000 images"),
    (["--seed", "-1"], "--seed must be a whole number from 0"),
    (["--target-accuracy", "94"], "--target-accuracy must be above 0 and at most 1"),
    (["--keep-every", "-1"], "--keep-every must be a whole number of epochs, 0 for none, not -1"),
    (["--keep-every", "2", "--lr", "0.1", "0.2"], "--keep-every: is for one run, not for a grid"),
    (["--checkpoint-every", "-1"], "--checkpoint-every must be a whole number of steps"),
    (["--dataset", "mnits"], "--dataset mnits: is no data set, file or folder; did you mean mnist?"),
    (["--fit", "pad", "--writing"], "--fit, --writing: for your own images, --dataset FOLDER or FILE, not "),
    (["--dataset", ""], "--dataset : is no data set, file or folder; --help lists the data sets"),
    (["--shuffle", "yes"], "--shuffle: invalid choice: 'yes'"),
    (["--arch", "resnet19"], "such as resnet50, not resnet19"),
    (["--arch", "lenet", "--width", "8"], "--width 8: lenet has its own; only vgg-small takes one"),
    (["--optimizer", "adamax"], "--optimizer: invalid choice: 'adamax'"),
    (["--precision", "fp16"], "--precision: invalid choice: 'fp16'"),
    (["--rotation", "200"], "--rotation must be from 0 to 180 degrees, not 200.0"),
    (["--scale", "1"], "--scale must be at least 0 and below 1, not 1.0"),
    (["--shear", "-0.1"], "--shear must be from 0 to 1, not -0.1"),
    (["--shift", "8"], "--shift 8.0 is too far for kmnist's images of 28 pixels: at most 7"),
    (["--elastic", "nan"], "--elastic must be a finite number of pixels"),
    (["--flip", "on"], "--flip on: in the mirror an image of kmnist means something else, or nothing"),
    (["--dropout", "1"], "--dropout must be at least 0 and below 1, not 1.0"),
    (["--label-smoothing", "-1"], "--label-smoothing must be at least 0 and below 1, not -1.0"),
    (["--monitor", "loss", "accuracy"], "--monitor takes one value: the runs of a grid are compared by it"),
    (["--model", "."], "--model .: is a folder"),
    (["--model", "a-file/model.pth"], "--model a-file/model.pth: can't write there"),
    (["--model", "checkpoint.pth"], "--model checkpoint.pth: is where the training state goes; give another name"),
    (["--model", "train.py"], "--model train.py: can't write that kind of file; end the name in .pth, .pt"),
    (["--plot", "plot.xyz"], "--plot plot.xyz: can't write that kind of file; end the name in .png"),
    (["--plot", "plot"], "--plot plot: can't write that kind of file"),
    (["--plot", "output/confusion.png"], "--plot output/confusion.png: is reserved for a picture of the report"),
    (["--logdir", "a-file/runs"], "--logdir a-file/runs: can't write there"),
    (["--resume", "elsewhere.pth"], "unrecognized arguments: elsewhere.pth"),
    (["--resume", "--epochs", "-1"], "--epochs must be a whole number of at least 0, not -1"),
    (["--seed", *map(str, range(MAX_RUNS + 1))], "these are 1,001 runs; give --yes to train more than 1,000"),
    (["--seed", *map(str, range(1000)), "--epochs", *map(str, range(1, 1001)), "--lr", *map(str, range(1, 1001))],
     "these are 1,000,000,000 runs; give --yes"),  # before they are made
    (["--recipe", "slow"], "--recipe: invalid choice: 'slow' (choose from classic, fast, best, photos)"),
    (["--epoch", "3"], "unrecognized arguments: --epoch"),
])  # fmt: skip
def test_bad_arguments_are_refused_in_one_line_and_leave_nothing(refusal, tmp_path, arguments, message):
    (tmp_path / "a-file").touch()
    assert message in re.sub(r"'(\w+)'(?=[,)])", r"\1", refusal(*arguments))  # Python 3.12 quotes no choices
    assert os.listdir(tmp_path) == ["a-file"]


@pytest.mark.skipif(not os.path.isdir("/proc/self"), reason="/proc, read-only even for root, is Linux's")
def test_a_read_only_place_is_refused(refusal):
    assert "--plot /proc/plot.png: can't write there" in refusal("--plot", "/proc/plot.png")


def test_arguments_are_checked_without_torch(run_without_torch, tmp_path):
    done = run_without_torch("train", "--model", "new/folder/model.pth", "--batch-size", "45001")
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)
    assert "--batch-size 45001 is larger than the 45,000 images of kmnist" in done.stderr
    assert os.listdir(tmp_path) == []


def test_help_needs_no_torch(run_without_torch):
    done = run_without_torch("train", "--help")
    assert (done.returncode, done.stderr) == (0, "")
    assert "--target-accuracy" in done.stdout and max(map(len, done.stdout.splitlines())) <= 80
    for name, recipe in RECIPES.items():
        assert re.search(rf"^  {name} +{re.escape(recipe.description)}$", done.stdout, re.MULTILINE)


# --- what earlier commands left ---


DIGITS = ("-d", "digits", "--arch", "lenet-slim", "--epochs", 3)
STATE = Path("output/checkpoint.pth")


@pytest.fixture
def prepared(tmp_path, monkeypatch):
    """Prepare a command in an empty folder, and take up what an earlier one has saved there."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments: object) -> Command:
        argv = [str(argument) for argument in arguments]
        with contextlib.ExitStack() as held:
            return load_saved(prepare(train.parse_args(argv), argv, held))[0]

    return run


@pytest.fixture
def refused(prepared):
    """The one line with which such a command is refused."""

    def run(*arguments: object) -> str:
        with pytest.raises(UserError) as caught:
            prepared(*arguments)
        assert "\n" not in str(caught.value)
        return str(caught.value)

    return run


def leave(*arguments: object, finished: int = 0, tested: bool = False, under_way: bool = True) -> dict:
    """Leave the files of an earlier command of which so many runs have finished; no real networks."""
    args = train.parse_args([str(argument) for argument in arguments])
    configs = build_configs(args.params, args.recipe, args.dataset)
    options = {"recipe": args.recipe or "classic", "data": "their/data", "model": "model.pth", "command": "train.py -x"}
    runs = [config.to_dict() for config in configs]
    manager = RunManager(args.params, None, runs, options=options | {"device": "auto"})
    for run in range(1, finished + 1):
        manager.set_rows(run, [dict.fromkeys(MEASURES, 0.5)])
    manager.finished, manager.is_tested = list(range(1, finished + 1)), tested
    progress = Progress(manager, configs)
    if under_way:
        manager.number = min(finished + 1, len(configs))
        progress.saved_run = {"epoch": 2, "step": 0}
    Path("output").mkdir(exist_ok=True)
    STATE.write_bytes(progress.to_bytes())
    Path("output/model.pth").write_bytes(b"PK neural_lib checkpoint")
    Path("output/results.json").write_bytes(manager.to_json())
    return load_archive(STATE, STATE_FORMAT)


def test_a_new_command_has_its_files_beside_the_model(prepared):
    command = prepared(*DIGITS, "-m", "made/here/model.pth", "--seed", 1, 2, "--logdir", "runs")
    assert (command.model, command.plot, command.state) == tuple(
        Path("made/here", name) for name in ("model.pth", "plot.png", "checkpoint.pth")
    )
    assert {path.name for path in command.exports} == {
        "model.pth", "plot.png", "results.csv", "results.json", "report.json", "report.html", "confusion.png",
        "mistakes.png", "labels.csv",
    }  # fmt: skip
    assert (command.logdir, command.options["recipe"]) == (Path("runs"), "classic")
    assert command.data_options["data_dir"] == "data" and command.data_options["use_cache"] is True
    assert [config.seed for config in command.configs()] == [1, 2] and command.params["seed"] == [1, 2]
    assert command.run_info["command"].startswith("python train.py -d digits --arch lenet-slim")
    assert command.run_info["data"] == os.path.abspath("data")


def test_a_new_command_does_not_replace_an_unfinished_run_or_grid(refused, prepared):
    leave(*DIGITS)
    message = "output/checkpoint.pth belongs to an interrupted run: resume it with --resume, give a --model"
    assert message in refused(*DIGITS)
    leave(*DIGITS, "--seed", 1, 2, finished=1, under_way=False)
    assert "belongs to an interrupted grid, 1 of 2 runs have finished: resume it with --resume" in refused(*DIGITS)
    leave(*DIGITS, finished=1)  # trained, and not tested
    assert message in refused(*DIGITS)
    leave(*DIGITS, under_way=False)  # it failed at once
    assert prepared(*DIGITS).saved_configs == ()  # it begins anew
    leave(*DIGITS, finished=1, tested=True)
    assert prepared(*DIGITS).saved_configs == ()


def test_options_that_are_not_given_come_from_the_interrupted_command(prepared):
    leave(*DIGITS, "--recipe", "fast", "--lr", 0.002, "--seed", 7)
    given = (*DIGITS, "--lr", 0.002)
    for command in (prepared("--resume"), prepared("--resume", *given), prepared("--resume", "--recipe", "fast")):
        (config,) = command.configs()
        assert (config.lr, config.seed, config.epochs, config.schedule) == (0.002, 7, 3, "linear")
        assert (command.recipe, command.data_dir, command.dataset) == ("fast", "their/data", "digits")
        assert command.options["command"] == "train.py -x"  # the command that repeats the run
    command = prepared("--resume", "--data", "elsewhere")
    assert command.data_dir == command.run_info["data"] == os.path.abspath("elsewhere")


@pytest.mark.parametrize("change, message", [
    (("--lr", 0.5), "--lr was 0.001, is 0.5"),
    (("--arch", "lenet"), "--arch was lenet-slim, is lenet"),
    (("--recipe", "fast", "--lr", 0.001), "--optimizer was adam, is muon"),
    (("--dataset", "kmnist"), "--dataset was digits, is kmnist"),
    (("--epochs", 2), "another command: --epochs was 3, is 2 (fewer than before)"),
    (("--epochs", 4, "--lr", 0.5), "--epochs was 3, is 4; --lr was 0.001, is 0.5"),
])  # fmt: skip
def test_another_configuration_is_refused_with_the_difference(refused, change, message):
    leave(*DIGITS)
    assert message in refused(*DIGITS, *change, "--resume")


def test_another_grid_is_refused_with_the_difference(refused):
    leave(*DIGITS, "--lr", 0.001, 0.01, finished=1)
    assert "another command: --lr was 0.001 0.01, is 0.001 0.02; give the same one" in refused(
        *DIGITS, "--lr", 0.001, 0.02, "--resume"
    )


def test_networks_are_kept_beside_the_model_and_others_files_are_not_replaced(prepared, refused):
    Path("output").mkdir()
    for name in ("model-epoch-2.pth", "model-epoch-30.pth"):  # of an earlier command
        Path("output", name).write_bytes(b"PK neural_lib checkpoint")
    assert prepared(*DIGITS, "--keep-every", 2).keep_every == 2 and prepared(*DIGITS).keep_every == 0
    Path("output/model-epoch-2.pth").write_bytes(b"something else")
    assert "output/model-epoch-2.pth: was not written by train.py; move it" in refused(*DIGITS, "--keep-every", 2)
    Path("output/model-epoch-last.pth").write_bytes(b"PK neural_lib checkpoint")
    assert "model-epoch-last.pth is a network in the same folder" in refused(*DIGITS)


def test_a_grid_that_is_resumed_keeps_no_networks(refused):
    leave(*DIGITS, "--lr", 0.001, 0.01, finished=1)
    assert "--keep-every: is for one run, not for a grid" in refused("--resume", "--keep-every", 2)


def test_more_epochs_may_be_given_if_the_learning_rate_is_constant(prepared):
    leave(*DIGITS, finished=1, tested=True)
    command = prepared("--epochs", 5, "--resume")
    assert (command.configs()[0].epochs, command.params["epochs"], command.is_longer) == (5, [5], True)
    assert command.run_info["command"].endswith(" --epochs 5")
    assert not prepared("--epochs", 3, "--resume").is_longer


@pytest.mark.parametrize("finished", [0, 1])
def test_no_more_epochs_may_be_given_to_a_schedule_that_knows_its_end(refused, finished):
    leave(*DIGITS, "--schedule", "one-cycle", finished=finished, tested=bool(finished))
    message = "--epochs was 3, is 4 (a one-cycle schedule is laid out for its number of epochs"
    assert message in refused("--epochs", 4, "--resume")


def test_no_more_epochs_may_be_given_to_a_grid_of_which_runs_have_finished(prepared, refused):
    leave(*DIGITS, "--seed", 1, 2, finished=1)
    assert "(runs of this grid have finished with fewer)" in refused("--epochs", 4, "--resume")
    leave(*DIGITS[:-2], "--epochs", 2, 3)
    assert "(the runs of this grid differ in their epochs)" in refused("--epochs", 4, "--resume")
    leave(*DIGITS, "--seed", 1, 2, finished=0)
    assert [config.epochs for config in prepared("--epochs", 4, "--resume").configs()] == [4, 4]


def test_with_nothing_to_resume_the_command_begins(prepared, caplog):
    command = prepared(*DIGITS, "--resume")
    assert command.configs()[0].epochs == 3
    assert "--resume: output/checkpoint.pth is missing, so training starts from the beginning" in caplog.text


def test_a_state_of_a_version_with_other_hyper_parameters_is_refused(refused):
    saved = leave(*DIGITS)
    del saved["requested"][0]["elastic"]
    STATE.write_bytes(archive_bytes(saved, STATE_FORMAT))
    assert "checkpoint.pth belongs to another version of the program" in refused("--resume")


def test_a_state_of_an_older_format_is_refused_in_one_line(refused):
    STATE.parent.mkdir()
    STATE.write_bytes(archive_bytes({"epoch": 1}, STATE_FORMAT._replace(version=4)))
    for arguments in (("--resume",), DIGITS):
        message = refused(*arguments)
        assert message.startswith("output/checkpoint.pth: has training state format 4, and this version reads format 5")
        assert "delete it to start anew" in message


@pytest.mark.parametrize("name", ["model.pth", "checkpoint.pth", "report.html", "report.json", "results.csv",
                                  "results.json"])  # fmt: skip
def test_a_file_of_another_program_is_not_replaced(refusal, name):
    Path("output").mkdir()
    Path("output", name).write_text("mine")
    for more in ((), ("--resume",)):
        assert re.search(f"output/{name}: (was not written by train.py|is no results file)", refusal(*DIGITS, *more))
    assert {name: Path("output", name).read_text() for name in os.listdir("output")} == {name: "mine"}


def test_a_second_model_in_a_folder_is_refused_and_a_copy_beside_a_model_is_not(prepared, refusal):
    leave(*DIGITS, finished=1, tested=True)
    stderr = refusal(*DIGITS, "-m", "output/second.pth")
    assert "--model output/second.pth: output/model.pth is a network in the same folder" in stderr
    assert "a folder of its own" in stderr and not Path("output/second.pth").exists()
    shutil.copy("output/model.pth", "output/copy.pth")
    Path("output/other.pth").write_bytes(b"not a model of this project")
    assert prepared(*DIGITS).model == Path("output/model.pth")
    assert "output/model.pth is a network in the same folder" in refusal(*DIGITS, "-m", "output/copy.pth")
    assert prepared(*DIGITS, "-m", "output/other/model.pth").plot == Path("output/other/plot.png")


def test_files_that_killed_commands_left_are_removed(prepared):
    leave(*DIGITS, finished=1, tested=True)
    old, new = (Path("output", f".model.pth.{number}.0123abcd.tmp") for number in (1, 2))
    for path in (old, new):
        path.touch()
    os.utime(old, (0, 0))
    prepared(*DIGITS)
    assert new.exists() and not old.exists()


def test_saved_values_hold_if_a_later_version_has_other_defaults(prepared):
    saved = leave("-d", "digits")
    for run in saved["requested"]:
        run["lr"], run["epochs"] = 0.5, 7
    STATE.write_bytes(archive_bytes(saved, STATE_FORMAT))
    (config,) = prepared("--resume").configs()
    assert (config.lr, config.epochs) == (0.5, 7)
    (config,) = prepared("--resume", "--epochs", 9).configs()
    assert (config.lr, config.epochs) == (0.5, 9)
