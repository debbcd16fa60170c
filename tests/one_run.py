"""Small runs for tests and benchmarks, built and trained by the functions that train.py calls."""

import contextlib

import made_up

from neural_lib.config import TrainConfig
from neural_lib.data.catalog import DATASETS
from neural_lib.data.images import Data, ImageTensors
from neural_lib.training.loop import train_one_epoch, validate
from neural_lib.training.run import Run, build_run


def make_run(images: ImageTensors, **values) -> Run:
    """A run on the made-up images of the fixture `images`: 225 train, in 8 batches, and 75 validate."""
    return run_of(TrainConfig(**{"batch_size": 32, "epochs": 9, **values}), images)


def run_of(config: TrainConfig, images: ImageTensors) -> Run:
    """The run of a configuration on these images, on their device."""
    data = Data(config.dataset, DATASETS[config.dataset], images, images)
    return build_run(config, data, images.device)


OTHER_CLASSES = [f"other {number}" for number in range(10)]


def begun_run(images: ImageTensors, classes: list[str] | None = None, **values) -> Run:
    """A run on these images that begins from an untrained network for KMNIST's classes, or for others."""
    init = made_up.make_checkpoint("kmnist", "lenet-slim")
    init.classes[:] = classes or init.classes
    init.glyphs.clear()
    data = Data("kmnist", DATASETS["kmnist"], images, images)
    return build_run(TrainConfig(**{"batch_size": 32, "arch": "lenet-slim", **values}), data, images.device, init)


def train_epochs(run: Run, count: int) -> Run:
    """Train and validate so many times; returns the run."""
    for _ in range(count):
        train_one_epoch(run)
        run.state.end_epoch(validate(run))
    return run


class _Enough(Exception):
    pass


def train_steps(run: Run, steps: int) -> None:
    """Train up to the next multiple of this number of steps, or to the end of the epoch."""

    def end() -> None:
        raise _Enough

    with contextlib.suppress(_Enough):
        train_one_epoch(run, save=end, save_every=steps)


def weights_of(run: Run) -> dict[str, bytes]:
    """Parameters and buffers, to be compared bit for bit."""
    return {name: value.cpu().numpy().tobytes() for name, value in run.model.state_dict().items()}
