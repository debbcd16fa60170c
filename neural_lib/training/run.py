"""build_run: everything between a TrainConfig and the first step of its training."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import nn, optim
from torch.utils.data import DataLoader

from neural_lib import checkpoint, pretrained
from neural_lib.checkpoint import Checkpoint
from neural_lib.config import IMAGENET, PAGE_LIMIT, TrainConfig
from neural_lib.data.augment import RandomDistortion
from neural_lib.data.images import Data, Normalisation, evaluation_loader, make_loader
from neural_lib.networks import build_network
from neural_lib.records import TITLES
from neural_lib.system import devices, distributed
from neural_lib.system.errors import UserError
from neural_lib.training.optim import build_loss, build_optimizer, build_scheduler
from neural_lib.training.state import TrainingState

MIN_STEPS, MIN_BATCH = 8, 8  # steps of an epoch, and images of a batch, of a small data set

PAGE_BYTES = 8 / 3  # of a parameter on a page of predict.py --export: 16 bits in base64

log = logging.getLogger(__name__)


@dataclass
class Run:
    """All parts of one run, on one device."""

    config: TrainConfig
    model: nn.Module
    replica: nn.Module  # the model that is trained: the same one, or DistributedDataParallel around it
    train_loader: DataLoader  # shuffled, distorted, normalised
    val_loader: DataLoader
    loss_fn: nn.Module  # log-probabilities (N, classes) and labels (N,) -> their summed loss ()
    optimizer: optim.Optimizer
    scheduler: optim.lr_scheduler.LRScheduler | None
    state: TrainingState  # how far the run has come
    fits_last_layer: bool  # whether epoch 0 fits the last layer to the data set, which is new to the network
    model_file: Checkpoint  # the content of model.pth, but for the weights and their figures

    @property
    def classes(self) -> int:
        """The number of classes."""
        return len(self.model_file.classes)

    def best_checkpoint(self) -> Checkpoint:
        """The network of the best epoch so far, with its figures."""
        return self._checkpoint(self.state.best_weights, self.state.best_row)

    def last_checkpoint(self) -> Checkpoint:
        """The network of the epoch that ended last, with its figures, before it is trained further."""
        return self._checkpoint(self.state.weights(), self.state.rows[-1])

    def _checkpoint(self, weights: dict[str, torch.Tensor], row: Mapping[str, float]) -> Checkpoint:
        metrics = {name: row[name] for name in ("epoch", *TITLES)}
        return replace(self.model_file, state_dict=weights, metrics=metrics)


def build_run(
    config: TrainConfig,
    data: Data,
    device: torch.device,
    init: Checkpoint | None = None,
    run_info: dict | None = None,
    compile_model: bool = False,
) -> Run:
    """Build the run of a configuration whose precision is resolved, before its first step.

    data: on the device. init: the network whose weights to begin from, and whose normalisation to use; if it holds no
    weights, they are restored from a saved state. run_info: the command, for the model file, by
    the keys of Checkpoint.training. compile_model: whether torch.compile translates the network.
    """
    torch.manual_seed(config.seed)  # for the initial weights; every later draw has a seed of its own
    info = data.info
    train_set, val_set = data.split(config)
    statistics = init and pretrained.statistics_for(init, info.channels) or data.statistics
    normalise = Normalisation(*statistics).to(device)
    distortion = RandomDistortion(config, info.image_size, device) if config.distorts() else None
    shuffle_seed = config.seed if config.shuffle else None
    train_loader = make_loader(train_set, config.batch_size, normalise, shuffle_seed, distortion)

    arch_args = config.arch_args(info.channels, len(info.classes), info.image_size)
    model = build_network(config.arch, **arch_args, dropout=config.dropout).to(device)
    log.info("initialized the %s model", config.arch)
    if (size := sum(each.numel() for each in model.parameters()) * PAGE_BYTES) > PAGE_LIMIT:
        limit = f"{size / 1e6:.0f} MB, more than {PAGE_LIMIT / 1e6:.0f}"
        log.info("the network is too large for a page of predict.py --export (%s); .onnx has no limit", limit)
    log.info("%s images to train on, %s to validate", f"{len(train_set):,}", f"{len(val_set):,}")
    if init and init.state_dict:
        fresh = "; ".join(pretrained.copy_weights(model, init, info.classes)) or "nothing"
        path = (run_info or {}).get("init", "a model file")
        source = "learned on ImageNet" if path == IMAGENET else f"in {path}"
        log.info("starting from the weights %s; newly initialised: %s", source, fresh)
    distributed.log_shard_sizes(config.batch_size)
    if regularisation := config.regularisation():
        log.info("for training only: %s", ", ".join(regularisation))

    training = {**(run_info or {}), "device": devices.describe(device), "processes": distributed.world_size()}
    training |= {"val_images": len(val_set), "test_images": len(data.test)}
    if data.has_user_images:
        training |= {"fingerprint": data.fingerprint, "parts": [*data.parts]}
        training |= {"val_fingerprint": data.val_fingerprint} if data.val else {}
        training |= {} if data.test_seed is None else {"test_seed": data.test_seed}
    optimizer = build_optimizer(model.parameters(), config)
    scheduler = build_scheduler(optimizer, config, len(train_loader))
    if compile_model:
        log.info("torch.compile: the first batches wait for the compiler...")
        model.compile()
    return Run(
        config=config,
        model=model,
        replica=distributed.replicate(model),
        train_loader=train_loader,
        val_loader=evaluation_loader(val_set, normalise),
        loss_fn=build_loss(config, torch.bincount(train_set.labels, minlength=len(info.classes))),
        optimizer=optimizer,
        scheduler=scheduler,
        state=TrainingState(config, model, optimizer, scheduler, first_epoch=0 if init else 1),
        fits_last_layer=bool(init) and pretrained.is_new_to(init, config.dataset, info.classes),
        model_file=checkpoint.without_weights(config, info, arch_args, statistics, training),
    )


def resolve(
    configs: Sequence[TrainConfig], data: Data, device: torch.device, keep_batch_size: bool = False
) -> list[TrainConfig]:
    """The configurations with the precision that suits the device and, for user images, what suits their number.

    A small data set gets small batches: an epoch has MIN_STEPS steps or more, as long as that leaves MIN_BATCH images
    in each. Photos get enough images to validate. keep_batch_size: leave batches as they are. Logs each precision and
    why.
    Raises UserError if a batch is larger than the part that is trained on.
    """
    is_native = devices.computes_bfloat16(device)
    reason = f"the {device} {'computes bf16' if is_native else 'is not known to compute bf16'} natively"
    for requested in dict.fromkeys(config.precision for config in configs):
        why = f" ({reason})" if requested == "auto" else ""
        log.info("precision: %s%s", devices.select_precision(requested, device), why)
        if requested == "bf16" and not is_native:
            log.warning("--precision bf16: %s; fp32 may be faster", reason)
    resolved = []
    for config in configs:
        config = replace(config, precision=devices.select_precision(config.precision, device))
        if data.has_user_images:
            config = data.with_enough_to_validate(config)
            count = len(data.split(config)[0])
            if keep_batch_size and config.batch_size > count:
                raise UserError(f"--batch-size {config.batch_size} is larger than the {count:,} images to train on")
            if not keep_batch_size:
                max_size = min(count, max(count // MIN_STEPS, MIN_BATCH))
                config = replace(config, batch_size=min(config.batch_size, max_size))
        resolved.append(config)
    return resolved
