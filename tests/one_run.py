"""One run, built of a configuration as train.py builds it, for tests and benchmarks of its parts."""

import torch

from neural_lib.config import TrainConfig
from neural_lib.data.augment import RandomDistortion
from neural_lib.data.catalog import DATASETS
from neural_lib.data.images import Data, ImageTensors, Normalisation, evaluation_loader, make_loader, split
from neural_lib.evaluation.scores import Scores, evaluate
from neural_lib.networks import build_network
from neural_lib.system import distributed
from neural_lib.training.loop import build_loss, build_optimizer, build_scheduler, train_one_epoch
from neural_lib.training.state import TrainingState


def statistics_of(images: ImageTensors) -> tuple[list[float], list[float]]:
    """Mean and standard deviation of each channel."""
    return Data("kmnist", DATASETS["kmnist"], images, images).statistics


class Run:
    """Loaders, network, optimizer, schedule, loss and state, on the device that holds the images."""

    def __init__(self, config: TrainConfig, images: ImageTensors) -> None:
        self.config, info, device = config, DATASETS[config.dataset], images.device
        torch.manual_seed(config.seed)
        train_set, val_set = split(images, config)
        normalise = Normalisation(*statistics_of(images)).to(device)
        distortion = RandomDistortion(config, info.image_size, device) if config.distorts() else None
        shuffle_seed = config.seed if config.shuffle else None
        self.loader = make_loader(train_set, config.batch_size, normalise, shuffle_seed, distortion)
        self.val_loader = evaluation_loader(val_set, normalise)
        arch_args = {"numChannels": info.channels, "classes": len(info.classes), "image_size": info.image_size}
        arch_args |= {"width": config.width} if config.width else {}
        self.model = build_network(config.arch, **arch_args, dropout=config.dropout).to(device)
        self.optimizer = build_optimizer(self.model.parameters(), config)
        self.scheduler = build_scheduler(self.optimizer, config, len(self.loader))
        self.loss_fn = build_loss(config)
        self.state = TrainingState(config, self.model, self.optimizer, self.scheduler, data="these images")
        self.replica = distributed.replicate(self.model)

    def train(self, *rest, **options) -> bool:
        """train_one_epoch, with what it takes besides."""
        parts = (self.replica, self.loader, self.loss_fn, self.optimizer, self.scheduler, self.state)
        return train_one_epoch(*parts, *rest, **options)

    def validate(self) -> Scores:
        """The scores on the validation part."""
        distributed.broadcast_buffers(self.model)
        return evaluate(self.model, self.val_loader, self.config.precision)

    def epochs(self, count: int) -> "Run":
        """Train and validate so many times; returns itself."""
        for _ in range(count):
            self.train()
            self.state.end_epoch(self.validate())
        return self

    def weights(self) -> dict[str, bytes]:
        """Parameters and buffers, to be compared bit for bit."""
        return {name: value.cpu().numpy().tobytes() for name, value in self.model.state_dict().items()}


def make_run(images: ImageTensors, **values) -> Run:
    """A run on the made-up images of the fixture `images`: 225 train, in 8 batches, and 75 validate."""
    return Run(TrainConfig(**{"batch_size": 32, "epochs": 9, **values}), images)
