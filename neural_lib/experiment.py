"""Everything that one training run consists of, built from its configuration."""

from collections.abc import Sequence
from functools import partial

import torch
from torch import nn

from neural_lib import seeds
from neural_lib.augment import RandomDistortion
from neural_lib.config import TrainConfig, shown
from neural_lib.datasets import DatasetInfo
from neural_lib.errors import DivergedError
from neural_lib.interrupts import Stop
from neural_lib.loaders import EVAL_BATCH_SIZE, Checked, ImageTensors, Normalisation, make_loader, split
from neural_lib.models import build_model
from neural_lib.optim import build_loss, build_optimizer, build_scheduler
from neural_lib.processes import ALONE, Processes
from neural_lib.training import Callback, History, NonFiniteLossError, Position, fit


class Experiment:
    """Loaders, network, optimizer, schedule and loss of one run, on the device that holds the images.

    images: those to train and to validate on. The run's randomness starts here, so that a run among others is the same
    as the run alone.

    processes: those who train it together. Each builds it from the same, and fit is for all of them.
    """

    def __init__(
        self, config: TrainConfig, info: DatasetInfo, images: ImageTensors, processes: Processes = ALONE
    ) -> None:
        self.processes = processes
        device = images.images.device
        seeds.seed_everything(config.seed)
        self.config = config
        self.train_set, self.val_set = split(images, config)
        normalise = Normalisation(info.mean, info.std).to(device)
        prepare, self.distortion = normalise, None
        if config.distorts():
            self.distortion = RandomDistortion(config, info.image_size, device, processes)
            prepare = nn.Sequential(self.distortion, normalise)
        shuffle_seed = config.seed if config.shuffle else None
        self.train_loader = make_loader(self.train_set, config.batch_size, prepare, shuffle_seed, processes)
        self.val_loader = make_loader(self.val_set, EVAL_BATCH_SIZE * processes.count, normalise, None, processes)

        self.arch_args = {"numChannels": info.channels, "classes": len(info.classes), "image_size": info.image_size}
        if config.width:
            self.arch_args["width"] = config.width
        self.model = build_model(config.arch, **self.arch_args, dropout=config.dropout).to(device)
        self.optimizer = build_optimizer(self.model.parameters(), config)
        self.scheduler = build_scheduler(self.optimizer, config, len(self.train_loader))
        self.loss_fn = build_loss(config)
        self.position = Position()

    def generators(self) -> dict[str, torch.Generator]:
        """The generators that are the run's own: of the shuffle and, where there are any, of the distortions."""
        own = {"shuffle": self.train_loader.generator}
        return own | {"distortion": self.distortion.generator} if self.distortion else own

    def fit(
        self,
        callbacks: Sequence[Callback] = (),
        epochs: int | None = None,
        stop: Stop | None = None,
    ) -> History:
        """Train and validate from `position` on, to the last epoch of the configuration or so many more as are given.

        stop: looked at between two batches; a signal that it has noted ends the training there, in all processes.
        Raises StoppedBetweenSteps then, DivergedError, with advice, where a loss becomes NaN or infinite, and
        ProcessLostError where another process has gone.
        """
        last = self.position.epoch - 1 + epochs if epochs else self.config.epochs
        seeds.diverge(self.processes.rank)
        train_loader, val_loader = self.train_loader, self.val_loader
        if stop:
            check = partial(self.processes.check, stop)
            train_loader, val_loader = Checked(train_loader, check), Checked(val_loader, check)
        try:
            with self.processes.connected():
                return fit(
                    self.processes.replicate(self.model), train_loader, val_loader, self.loss_fn, self.optimizer, last,
                    self.scheduler, self.config.precision, callbacks, self.position, self.processes,
                )  # fmt: skip
        except NonFiniteLossError as error:
            raise DivergedError(f"{error}; try a lower --lr than {shown(self.config.lr)}") from None
