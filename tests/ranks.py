"""Real processes that train together, for tests: `run` starts them, and each calls one of the functions below."""

import contextlib
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


def images():
    import made_up
    import torch

    from neural_lib.loaders import ImageTensors

    pixels, labels = made_up.make_images(300, seed=0)
    return ImageTensors(torch.from_numpy(pixels).unsqueeze(1), torch.from_numpy(labels).long())


def experiment_of(values: dict, processes):
    from neural_lib.config import TrainConfig
    from neural_lib.datasets import DATASETS
    from neural_lib.experiment import Experiment

    return Experiment(TrainConfig(epochs=2, **values), DATASETS["kmnist"], images(), processes)


# --- what the processes do ---


def train(processes) -> dict:
    """Of each of RUNS: the history, the first step's gradients, how many images each epoch had, the last weights."""
    from neural_lib.training import Callback

    outcomes = {}
    for name, values in RUNS.items():
        experiment, counts, gradients = experiment_of(values, processes), [], []

        class Look(Callback):
            def on_batch_end(self, scores, experiment=experiment, gradients=gradients):
                if not gradients:
                    gradients += [parameter.grad.clone() for parameter in experiment.model.parameters()]

            def on_epoch_end(self, epoch, train, val, counts=counts):
                counts.append((train.count, len(val.labels)))

        history = experiment.fit([Look()])
        weights = {key: value.numpy().tobytes() for key, value in experiment.model.state_dict().items()}
        outcomes[name] = {"history": vars(history), "gradients": gradients, "counts": counts, "weights": weights}
    return outcomes


def evaluate(processes):
    """An untrained network's scores on 301 images, in parts."""
    import torch

    from neural_lib.evaluation import evaluate as score
    from neural_lib.loaders import ImageTensors, Normalisation, make_loader
    from neural_lib.models import build_model

    torch.manual_seed(0)
    model, all_images = build_model("lenet", numChannels=1, classes=10), images()
    odd = ImageTensors(*all_images[torch.arange(301) % 300])
    loader = make_loader(odd, 20 * processes.count, Normalisation((0.2,), (0.3,)), None, processes)
    return score(model, loader, processes=processes)


def normalise(processes) -> list:
    """Outputs, gradients and statistics of a batch normalisation of 5 images, the last time of 1 alone."""
    import torch
    from torch import nn

    outcomes = []
    for count in (5, 1):
        torch.manual_seed(0)
        batch, pull = (torch.randn(count, 3, 6, 6) * 3 + 7 for _ in range(2))
        network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))
        replica = processes.replicate(network)
        outputs = replica(processes.part(batch))
        weight = processes.part(pull)[:, :1, :4, :4]
        (outputs.square() * weight).sum(dim=(1, 2, 3)).mean().backward()  # the mean over this process's images
        gradients = [parameter.grad for parameter in network.parameters()]
        outcomes.append((outputs.detach(), gradients, [value.float() for value in network.buffers()]))
    return outcomes


def stop(processes) -> tuple[int, int, int]:
    """Where each stops when a signal reaches the last one, in the 15th batch."""
    from neural_lib import interrupts
    from neural_lib.training import Callback

    experiment = experiment_of({"batch_size": 10, "arch": "lenet-slim"}, processes)

    class Signal(Callback):
        def on_batch_end(self, scores):
            if experiment.position.step == 15 and processes.rank == processes.count - 1:
                os.kill(os.getpid(), signal.SIGTERM)

    with interrupts.raised(), interrupts.noted() as noted:
        try:
            experiment.fit([Signal()], stop=noted)
        except interrupts.StoppedBetweenSteps as stopped:
            return experiment.position.epoch, experiment.position.step, stopped.signum


def end_early(processes) -> int:
    """After how many epochs training ends where process 0 alone wants to end it after the first."""
    from neural_lib.callbacks import EndTogether
    from neural_lib.training import Callback

    class First(Callback):
        stop = True

    ending = [EndTogether(processes, None if processes.rank else First())]
    return len(experiment_of({"batch_size": 50, "arch": "lenet-slim"}, processes).fit(ending).val_acc)


def diverge(processes) -> tuple[float, float]:
    """A number from the generator that dropout draws from, and another from the one of the shuffle."""
    import torch

    experiment = experiment_of({"batch_size": 50, "arch": "lenet-slim", "dropout": 0.5}, processes)
    experiment.fit(epochs=1)
    shuffle = experiment.train_loader.generator
    return torch.rand(()).item(), torch.rand((), generator=shuffle).item()


def everything(processes) -> dict:
    """One start of the processes is the longest part of it."""
    return {each.__name__: each(processes) for each in (train, evaluate, normalise, stop, end_early, diverge)}


def main() -> None:
    import torch

    from neural_lib import launch, runtime

    torch.set_num_threads(1)
    with contextlib.ExitStack() as stack:
        place = launch.place()
        if place.rank:
            group = runtime.Group(place)
            stack.callback(group.leave)
            group.device_type(None)
            group.join(torch.device("cpu"))
        else:
            group = stack.enter_context(runtime.together(place, torch.device("cpu")))
        Path(sys.argv[2]).write_bytes(pickle.dumps(globals()[sys.argv[1]](group)))


if __name__ == "__main__":
    main()
