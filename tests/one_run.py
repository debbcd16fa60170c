"""One run, built of a configuration as train.py builds it, for tests and benchmarks of its parts."""

import torch

from neural_lib import distributed
from neural_lib.augment import RandomDistortion
from neural_lib.config import TrainConfig
from neural_lib.datasets import DATASETS
from neural_lib.evaluation import Evaluation, evaluate
from neural_lib.loaders import ImageTensors, Normalisation, evaluation_loader, make_loader, split
from neural_lib.models import build_model
from neural_lib.state import TrainingState
from neural_lib.training import build_loss, build_optimizer, build_scheduler, train_one_epoch


class Run:
    """Loaders, network, optimizer, schedule, loss and state, on the device that holds the images."""

    def __init__(self, config: TrainConfig, images: ImageTensors) -> None:
        self.config, info, device = config, DATASETS[config.dataset], images.images.device
        torch.manual_seed(config.seed)
        train_set, val_set = split(images, config)
        normalise = Normalisation(info.mean, info.std).to(device)
        distortion = RandomDistortion(config, info.image_size, device) if config.distorts() else None
        shuffle_seed = config.seed if config.shuffle else None
        self.loader = make_loader(train_set, config.batch_size, normalise, shuffle_seed, distortion)
        self.val_loader = evaluation_loader(val_set, normalise)
        arch_args = {"numChannels": info.channels, "classes": len(info.classes), "image_size": info.image_size}
        arch_args |= {"width": config.width} if config.width else {}
        self.model = build_model(config.arch, **arch_args, dropout=config.dropout).to(device)
        self.optimizer = build_optimizer(self.model.parameters(), config)
        self.scheduler = build_scheduler(self.optimizer, config, len(self.loader))
        self.loss_fn = build_loss(config)
        self.state = TrainingState(config, self.model, self.optimizer, self.scheduler, data="these images")
        self.replica = distributed.replicate(self.model)

    def train(self, *rest, **options) -> bool:
        """train_one_epoch, with what it takes besides."""
        parts = (self.replica, self.loader, self.loss_fn, self.optimizer, self.scheduler, self.state)
        return train_one_epoch(*parts, *rest, **options)

    def validate(self) -> Evaluation:
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
