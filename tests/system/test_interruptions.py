"""train.py interrupted by any signal at any moment: resumed until it ends, its weights are those of a whole run."""

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from conftest import ROOT, mind_ctrl_c
from outcomes import outcome

TIMES = 10
SMALL = ("-d", "digits", "--arch", "lenet-slim", "--device", "cpu", "--checkpoint-every", 3)
COMMANDS = {
    "classic": (*SMALL, "--epochs", 6),
    "best with dropout": (*SMALL, "--recipe", "best", "--dropout", 0.2, "--epochs", 6),
    "grid": (*SMALL, "--epochs", 2, "--lr", 0.001, 0.003, "--seed", 1, 2),
    "two ranks": (*SMALL, "--epochs", 4),
}
TORCHRUN = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2")


def start(folder: Path, name: str, *more: object) -> subprocess.Popen:
    launcher = TORCHRUN if name == "two ranks" else ()
    command = [sys.executable, "-u", *launcher, ROOT / "train.py", *COMMANDS[name], *more]
    return subprocess.Popen(
        list(map(str, command)), cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        start_new_session=True, preexec_fn=mind_ctrl_c, env=os.environ | {"OMP_NUM_THREADS": "1"},
    )  # fmt: skip


def interrupt(process: subprocess.Popen, chance: random.Random, seconds: float) -> bool:
    """Send a signal at a random moment of the training; False if that ended before."""
    shown = []
    for line in process.stdout:
        shown.append(line)
        if "training the network" in line:
            break
    time.sleep(chance.uniform(0, seconds))
    signum = chance.choice([signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
    if process.poll() is None:
        send = os.killpg if signum == signal.SIGKILL else os.kill  # torchrun passes on the others
        send(process.pid, signum)
    shown.append(process.communicate(timeout=100)[0])
    text = "".join(shown)
    assert "Traceback" not in text or "torch/distributed" in text, text
    return process.returncode != 0


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="signals are Unix's")
@pytest.mark.parametrize("name", COMMANDS)
def test_a_command_interrupted_at_random_moments_ends_with_the_same_weights(tmp_path, name):
    chance = random.Random(name)
    whole = start(tmp_path, name, "-m", "whole/model.pth")
    began = None
    for line in whole.stdout:
        began = began or ("training the network" in line and time.monotonic())
    assert whole.wait() == 0
    seconds = (time.monotonic() - began) / 5
    for number in range(TIMES):
        if not interrupt(start(tmp_path, name, "--resume"), chance, seconds):
            break
        if number % 2:
            for export in ("model.pth", "results.json"):
                (tmp_path / "output" / export).unlink(missing_ok=True)
    last = start(tmp_path, name, "--resume")
    assert last.communicate(timeout=100) and last.returncode == 0
    assert outcome(tmp_path / "output") == outcome(tmp_path / "whole")
