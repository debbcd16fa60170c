"""Real signals, sent to this process, to train.py and to processes as a launcher starts them."""

import json
import os
import re
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from conftest import ROOT, mind_ctrl_c
from outcomes import outcome

from neural_lib import checkpoint
from neural_lib.system import cli, signals

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="signals are Unix's")
SIGNALS = [signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2]


def send(signum: int) -> None:
    os.kill(os.getpid(), signum)


@pytest.mark.parametrize("signum", SIGNALS)
def test_a_first_signal_takes_effect_at_the_next_check_and_a_second_immediately(signum):
    with signals.raise_on_signals():
        with signals.GracefulStop() as stop:
            stop.check()
            send(signum)
            with pytest.raises(signals.Stopped) as caught:
                stop.check()
            assert caught.value.signum == signum
            with pytest.raises(signals.Stopped):
                send(signum)  # the second one
        with pytest.raises(signals.Stopped):
            send(signum)


def test_handlers_are_restored_and_ignored_signals_stay_ignored():
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)  # as nohup does
    try:
        handlers = [signal.getsignal(each) for each in SIGNALS]
        with signals.raise_on_signals(), signals.GracefulStop() as stop:
            send(signal.SIGHUP)
            assert not stop.signum
        assert [signal.getsignal(each) for each in SIGNALS] == handlers
    finally:
        signal.signal(signal.SIGHUP, before)


def test_other_threads_than_the_main_one_handle_no_signals():
    received = []

    def work():
        with signals.raise_on_signals(), signals.GracefulStop() as stop:
            stop.check()
            received.append(stop.signum)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert received == [0]


@pytest.mark.parametrize("signum", SIGNALS)
def test_the_exit_status_is_128_and_the_signals_number(signum, capsys):
    assert cli.run(lambda argv: send(signum), "a.py") == 128 + signum
    assert capsys.readouterr().err == "a.py: error: interrupted\n"


def start(cwd, *arguments: object) -> subprocess.Popen:
    command = [sys.executable, "-u", str(ROOT / "train.py"), *map(str, arguments)]
    return subprocess.Popen(
        command, cwd=cwd, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, preexec_fn=mind_ctrl_c
    )


def wait_for_epoch(process: subprocess.Popen, epoch: object = r"\d+") -> None:
    for line in process.stdout:
        if re.match(rf" +{epoch}/\d+ ", line):
            return
    pytest.fail(f"it ended before epoch {epoch}: {process.stderr.read()}")


RUN = ("-d", "digits", "--arch", "lenet-slim", "--epochs", 400)


@pytest.mark.slow
@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGUSR1])
def test_train_ends_after_the_step_and_saves_its_state(tmp_path, signum):
    process = start(tmp_path, *RUN)
    wait_for_epoch(process, 2)
    process.send_signal(signum)
    _, stderr = process.communicate(timeout=60)
    assert process.returncode == 128 + signum
    kept = re.fullmatch(
        r"train.py: error: interrupted; output/model.pth keeps epoch (\d+); "
        r"the same command with --resume resumes at epoch (\d+), step \d+\n", stderr
    )  # fmt: skip
    assert checkpoint.load(tmp_path / "output" / "model.pth").metrics["epoch"] == int(kept[1]) < int(kept[2])
    assert sorted(os.listdir(tmp_path / "output")) == ["checkpoint.pth", "model.pth", "results.csv", "results.json"]


@pytest.mark.slow
def test_a_run_killed_several_times_ends_with_the_same_result_bit_for_bit(tmp_path):
    run = ("-d", "digits", "--recipe", "best", "--arch", "lenet-slim", "--epochs", 8, "--checkpoint-every", 5)
    whole = start(tmp_path, *run, "-m", "whole/model.pth", "-p", "whole/plot.png")
    assert whole.communicate(timeout=100) and whole.returncode == 0
    for number in (1, 4, 6):
        process = start(tmp_path, *run, *(["--resume"] if number > 1 else []))
        wait_for_epoch(process, number)
        process.kill()
        process.communicate()
    last = start(tmp_path, *run, "--resume")
    assert last.communicate(timeout=100) and last.returncode == 0
    assert outcome(tmp_path / "output") == outcome(tmp_path / "whole")
    assert not [name for name in os.listdir(tmp_path / "output") if name.startswith(".") and ".tmp" not in name]


@pytest.mark.slow
def test_a_second_run_on_the_same_outputs_is_refused_while_the_first_runs(tmp_path):
    first = start(tmp_path, *RUN, "-m", "a/model.pth", "-p", "plot.png")
    wait_for_epoch(first, 1)
    for outputs, option in ((("-m", "a/model.pth", "-p", "other.png"), "--model's results a/results.json"),
                          (("-m", "b/model.pth", "-p", "plot.png"), "--plot plot.png")):  # fmt: skip
        second = start(tmp_path, *RUN, *outputs)
        _, stderr = second.communicate(timeout=60)
        assert second.returncode == 2
        assert stderr.startswith(f"train.py: error: {option}: another run is writing there; ")
        assert stderr.count("\n") == 1
    first.kill()
    first.communicate()
    third = start(tmp_path, *RUN[:-1], 1, "-m", "a/model.pth", "-p", "plot.png", "--resume")
    third.communicate(timeout=60)
    assert third.returncode == 2  # for its other number of epochs, not because of a lock
    assert json.loads(Path(tmp_path, "a/results.json").read_text())["finished"] == []


LAUNCHED = """
import os, signal, sys, time
from neural_lib.system import cli, signals

os.environ.update(WORLD_SIZE="2", RANK="0")

def main(_):
    with signals.GracefulStop() as stop:
        os.kill(os.getpid(), signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGINT)
        stop.check()

status = cli.run(main, "a.py")
os.kill(os.getpid(), signal.SIGTERM)
raise SystemExit(status)
"""


def test_under_a_launcher_a_repeated_signal_has_no_effect(run_python):
    """A scheduler and the launcher may both send it, also while the process is ending."""
    done = run_python("-c", LAUNCHED)
    assert (done.returncode, done.stderr) == (143, "a.py: error: interrupted\n")
