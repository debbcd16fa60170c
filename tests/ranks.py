"""Real processes that train together, for tests: `run` starts them, and each calls the functions below."""

import contextlib
import csv
import io
import json
import logging
import os
import pickle
import signal
import socket
import subprocess
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import made_up
import torch
from one_run import OTHER_CLASSES, begun_run, run_of, train_steps, weights_of

import train as train_script
from neural_lib.config import TrainConfig
from neural_lib.data.images import ImageTensors, Normalisation, make_loader
from neural_lib.evaluation.scores import evaluate as score
from neural_lib.networks import build_network
from neural_lib.system import cli, distributed, signals
from neural_lib.system.distributed import rank, world_size
from neural_lib.system.environment import ranks_from_environment
from neural_lib.training.loop import train_one_epoch, validate
from neural_lib.training.probe import fit_last_layer

DEADLINE = 100  # seconds

# 300 images, of which 225 train unless another split is given: batches of 32 leave one image for the last batch
RUNS = {
    "even batches": {"batch_size": 32, "arch": "lenet"},
    "uneven batches, label smoothing": {"batch_size": 7, "label_smoothing": 0.1, "train_split": 0.5},
    "batches smaller than the world": {"batch_size": 2, "train_split": 0.1},
    "one-cycle, distorted": {"batch_size": 50, "optimizer": "adamw", "schedule": "one-cycle", "lr": 0.003,
                             "rotation": 10.0, "scale": 0.1, "shear": 0.1, "shift": 1.0, "elastic": 0.5,
                             "thickness": 0.5, "gamma": 0.5, "flip": True, "zoom": 0.3, "color": 0.3},
    "Muon": {"batch_size": 50, "optimizer": "muon", "schedule": "linear", "lr": 0.003, "weight_decay": 0.1},
}  # fmt: skip
# 10 steps an epoch, the last of 18 images; in many more, rounding errors grow past 1e-4 on processors with AMX
COMMAND = ("-d", "digits", "--arch", "lenet-slim", "--device", "cpu", "--epochs", 2, "--batch-size", 48)
COMMAND += ("--train-split", 0.3)


def free_port() -> int:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return taken.getsockname()[1]


def run(count: int) -> list[dict]:
    """Start `count` processes; returns the results of each, by the names of the functions."""
    with tempfile.TemporaryDirectory() as folder:
        shared = {"WORLD_SIZE": str(count), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
        shared["COMMAND_PORT"] = str(free_port())
        processes = [
            subprocess.Popen(
                [sys.executable, __file__, f"{folder}/{rank}"],
                env=os.environ | shared | {"RANK": str(rank)},
                stderr=subprocess.PIPE,
                text=True,
            )
            for rank in range(count)
        ]
        errors = [process.communicate(timeout=DEADLINE)[1] for process in processes]
        assert not any(errors), "\n".join(errors)  # neither warnings nor tracebacks
        return [pickle.loads(Path(folder, str(rank)).read_bytes()) for rank in range(count)]


def make_run(**values):
    """A run on 300 made-up images, by default 225 to train on and 75 to validate."""
    pixels, labels = made_up.make_images(300, seed=0)
    images = ImageTensors(torch.from_numpy(pixels).unsqueeze(1), torch.from_numpy(labels).long())
    return run_of(TrainConfig(**{"arch": "lenet-slim", "epochs": 2, **values}), images)


# --- functions for the processes ---


def train() -> dict:
    """Rows, gradients of the first step, numbers of images per epoch and final weights of each of RUNS."""
    outcomes = {}
    for name, values in RUNS.items():
        each, counts = make_run(**values), []
        train_steps(each, 1)
        gradients = [parameter.grad.clone() for parameter in each.model.parameters()]
        for _ in range(2):
            train_one_epoch(each)
            val = validate(each)
            counts.append((each.state.sums.count, len(val.labels)))
            each.state.end_epoch(val)
        outcomes[name] = {
            "rows": each.state.rows,
            "gradients": gradients,
            "counts": counts,
            "weights": weights_of(each),
        }
    return outcomes


def evaluate():
    """An untrained network's scores on 301 images, in shards of batches of 20 a rank."""
    torch.manual_seed(0)
    pixels, labels = made_up.make_images(301, seed=0)
    images = ImageTensors(torch.from_numpy(pixels).unsqueeze(1), torch.from_numpy(labels).long())
    loader = make_loader(images, 20 * world_size(), Normalisation((0.2,), (0.3,)))
    return score(build_network("lenet", numChannels=1, classes=10), loader)


def normalise() -> dict:
    """A network with batch normalisation, whose last batch of an epoch has one image: its buffers and its scores."""
    each = make_run(arch="vgg-small", width=4, batch_size=32)
    train_one_epoch(each)
    own = [value.clone() for value in each.model.buffers()]
    val = validate(each)
    return {"own": own, "scored": [value.clone() for value in each.model.buffers()], "val": val.loss}


def stop() -> tuple[int, int, int]:
    """Epoch, step and signal where each rank stops after a signal to the last one in its 15th step."""
    each = make_run(batch_size=10)
    with signals.raise_on_signals(launched=world_size() > 1), signals.GracefulStop() as graceful:
        try:
            train_steps(each, 15)
            if rank() == world_size() - 1:
                os.kill(os.getpid(), signal.SIGTERM)
            train_one_epoch(each, graceful)
        except signals.Stopped as stopped:
            return each.state.epoch, each.state.step, stopped.signum


def fit() -> dict:
    """The last layer that is fitted to the features of 225 images, and their scores."""
    pixels, labels = made_up.make_images(300, seed=0)
    images = ImageTensors(torch.from_numpy(pixels).unsqueeze(1), torch.from_numpy(labels).long())
    each = begun_run(images, OTHER_CLASSES)
    fit_last_layer(each)
    sums = each.state.sums
    return {"weight": each.model.out.weight.detach(), "scores": (sums.count, sums.loss, sums.accuracy)}


def dropout() -> dict:
    """Which inputs dropout drops in the first step, and the weights of a run resumed in its second epoch."""
    probe, whole, begun, resumed = (make_run(batch_size=50, dropout=0.5) for _ in range(4))
    dropped = []  # of inputs that are all 1, because zeros of ReLU would look like dropped ones
    probe.model.dropout.register_forward_pre_hook(lambda _, inputs: (inputs[0] * 0 + 1,))
    probe.model.dropout.register_forward_hook(lambda _, __, output: dropped.append((output[0] == 0).numpy().tobytes()))
    train_steps(probe, 1)
    for _ in range(2):
        train_one_epoch(whole)
        whole.state.end_epoch(validate(whole))
    train_one_epoch(begun)
    begun.state.end_epoch(validate(begun))
    train_steps(begun, 2)
    torch.rand(7)
    resumed.state.load_state_dict(begun.state.state_dict())
    train_one_epoch(resumed)
    return {"dropped": dropped[0], "whole": weights_of(whole), "resumed": weights_of(resumed)}


def command(folder: Path) -> dict:
    """A whole command of train.py in an empty folder: its exit status, output, files, rows and confusion matrix."""
    folder.mkdir(exist_ok=True)
    stdout, stderr = io.StringIO(), io.StringIO()
    arguments = [str(each) for each in (*COMMAND, "--model", "model.pth")]
    with contextlib.chdir(folder), contextlib.redirect_stdout(stdout), contextlib.redirect_stderr(stderr):
        status = cli.run(train_script.main, "train.py", arguments)
    outcome = {"status": status, "stdout": stdout.getvalue(), "stderr": stderr.getvalue()}
    outcome["files"] = os.listdir(folder)
    if "results.csv" in outcome["files"]:
        with open(folder / "results.csv", encoding="utf-8", newline="") as file:
            outcome["rows"] = list(csv.DictReader(file))
        outcome["confusions"] = json.loads((folder / "report.json").read_text())["confusion_matrix"]
    return outcome


def main() -> None:
    torch.set_num_threads(1)
    logging.getLogger("neural_lib").addHandler(logging.NullHandler())  # what a run logs is not looked at
    path = Path(sys.argv[1])
    with distributed.process_group(ranks_from_environment(), torch.device("cpu")):
        results = {each.__name__: each() for each in (train, evaluate, normalise, stop, fit, dropout)}
        torch.distributed.barrier()
    os.environ["MASTER_PORT"] = os.environ["COMMAND_PORT"]  # a process group of its own
    results["command"] = command(path.parent / f"output-{path.name}")
    path.write_bytes(pickle.dumps(results))


if __name__ == "__main__":
    main()
