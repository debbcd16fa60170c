"""Real processes that train together, for tests: `run` starts them, and each calls one of the functions below."""

import os
import pickle
import signal
import socket
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]
DEADLINE = 100  # seconds

# 300 images, of which 225 are trained on: batches of 32 leave one for the last batch, those of 7 one as well
RUNS = {
    "even": {"batch_size": 32},
    "uneven": {"batch_size": 7, "arch": "lenet-slim", "label_smoothing": 0.1},
    "fewer than processes": {"batch_size": 2, "arch": "lenet-slim", "train_split": 0.3},
    "one-cycle": {"batch_size": 50, "optimizer": "adamw", "schedule": "one-cycle", "lr": 0.003},
    "distorted": {"batch_size": 32, "rotation": 10.0, "scale": 0.1, "shear": 0.1, "shift": 1.0, "elastic": 0.5,
                  "flip": True},
}  # fmt: skip


def free_port() -> int:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return taken.getsockname()[1]


def run(function: str, count: int) -> list:
    """What the function returned in each of so many processes."""
    with tempfile.TemporaryDirectory() as folder:
        shared = {"WORLD_SIZE": str(count), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
        processes = [
            subprocess.Popen(
                [sys.executable, __file__, function, f"{folder}/{rank}"],
                env=os.environ | shared | {"RANK": str(rank)},
                stderr=subprocess.PIPE,
                text=True,
            )
            for rank in range(count)
        ]
        said = [process.communicate(timeout=DEADLINE)[1] for process in processes]
        assert not any(said), "\n".join(said)  # nothing on stderr: no warning, no traceback
        return [pickle.loads(Path(folder, str(rank)).read_bytes()) for rank in range(count)]


def make_run(**values):
    """A run on 225 made-up images, with 75 to validate."""
    import made_up
    import torch
    from one_run import Run

    from neural_lib.config import TrainConfig
    from neural_lib.loaders import ImageTensors

    pixels, labels = made_up.make_images(300, seed=0)
    images = ImageTensors(torch.from_numpy(pixels).unsqueeze(1), torch.from_numpy(labels).long())
    return Run(TrainConfig(epochs=2, **values), images)


# --- what the processes do ---


def train() -> dict:
    """Of each of RUNS: the rows of its epochs, the first step's gradients, how many images each had, the weights."""
    outcomes = {}
    for name, values in RUNS.items():
        each, counts = make_run(**values), []
        each.train(most_steps=1)
        gradients = [parameter.grad.clone() for parameter in each.model.parameters()]
        for _ in range(2):
            while not each.train():
                pass
            val = each.validate()
            counts.append((each.state.sums.count, len(val.labels)))
            each.state.end_epoch(val)
        outcomes[name] = {"rows": each.state.rows, "gradients": gradients, "counts": counts, "weights": each.weights()}
    return outcomes


def evaluate():
    """An untrained network's scores on 301 images, in shards of batches of 20 a rank."""
    import made_up
    import torch

    from neural_lib.distributed import world_size
    from neural_lib.evaluation import evaluate as score
    from neural_lib.loaders import ImageTensors, Normalisation, make_loader
    from neural_lib.models import build_model

    torch.manual_seed(0)
    pixels, labels = made_up.make_images(301, seed=0)
    images = ImageTensors(torch.from_numpy(pixels).unsqueeze(1), torch.from_numpy(labels).long())
    loader = make_loader(images, 20 * world_size(), Normalisation((0.2,), (0.3,)))
    return score(build_model("lenet", numChannels=1, classes=10), loader)


def normalise() -> dict:
    """A network with batch normalisation, whose last batch of an epoch has one image: its buffers and its scores."""
    each = make_run(arch="vgg-small", width=4, batch_size=32)
    each.train()
    own = [value.clone() for value in each.model.buffers()]
    val = each.validate()
    return {"own": own, "scored": [value.clone() for value in each.model.buffers()], "val": val.loss}


def stop() -> tuple[int, int, int]:
    """Where each stops when a signal reaches the last one, after its 15th step."""
    from neural_lib import interrupts
    from neural_lib.distributed import rank, world_size

    each = make_run(batch_size=10, arch="lenet-slim")
    with interrupts.raise_on_signals(launched=world_size() > 1), interrupts.GracefulStop() as graceful:
        try:
            each.train(graceful, most_steps=15)
            if rank() == world_size() - 1:
                os.kill(os.getpid(), signal.SIGTERM)
            each.train(graceful)
        except interrupts.Stopped as stopped:
            return each.state.epoch, each.state.step, stopped.signum


def dropout() -> dict:
    """What dropout left of ones in the first step, and the weights of a run that was resumed in its second epoch."""
    import torch

    whole, begun, resumed = (make_run(batch_size=50, arch="lenet-slim", dropout=0.5) for _ in range(3))
    seen = []
    hook = whole.model.fc1.register_forward_pre_hook(
        lambda _, inputs: seen.append((inputs[0] == 0).float().mean().item())
    )
    for _ in range(2):
        whole.train()
        whole.state.end_epoch(whole.validate())
    hook.remove()
    begun.train()
    begun.state.end_epoch(begun.validate())
    begun.train(most_steps=2)
    torch.rand(7)
    resumed.state.load_state_dict(begun.state.state_dict())
    resumed.train()
    return {"first": seen[0], "whole": whole.weights(), "resumed": resumed.weights()}


def everything() -> dict:
    """One start of the processes is the longest part of it."""
    return {each.__name__: each() for each in (train, evaluate, normalise, stop, dropout)}


def main() -> None:
    import torch

    from neural_lib import distributed
    from neural_lib.devices import ranks_from_environment

    torch.set_num_threads(1)
    with distributed.process_group(ranks_from_environment(), torch.device("cpu")):
        outcome = globals()[sys.argv[1]]()
        Path(sys.argv[2]).write_bytes(pickle.dumps(outcome))
        torch.distributed.barrier()


if __name__ == "__main__":
    main()
