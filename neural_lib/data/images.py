"""Images in memory: read, normalised, split into training and validation, and dealt out in batches by DataLoaders."""

import functools
import hashlib
import itertools
import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, Sampler, random_split

from neural_lib.config import TrainConfig, derived_seed
from neural_lib.data import custom, download
from neural_lib.data.augment import RandomDistortion
from neural_lib.data.catalog import DATASETS, DatasetInfo, Preparation, title_of
from neural_lib.data.pictures import listed
from neural_lib.system.distributed import PADDING, broadcast, is_main, is_padding, shard, world_size
from neural_lib.system.errors import UserError

EVAL_BATCH_SIZE = 250  # images in each rank; scoring needs no gradients, so more fit at once, with fewer calls an image
CHUNK = 1000  # images that are looked at together, so that a large data set need not be copied as a whole

log = logging.getLogger(__name__)


class Images(NamedTuple):
    """One part of a data set: uint8 images (N, C, H, W) and int64 labels (N,)."""

    images: Tensor
    labels: Tensor


class ImageTensors(Dataset):
    """Images (N, C, H, W), uint8, and labels (N,), int64, in the memory of `device`.

    An index of many is a whole batch: one gather instead of N decodings. indices: of the images meant among those that
    are stored, if not all are; so parts of a data set share their memory, which may be mapped from a file.
    """

    def __init__(
        self, images: Tensor, labels: Tensor, device: torch.device | str = "cpu", indices: Tensor | None = None
    ) -> None:
        if indices is not None and torch.device(device).type != images.device.type:
            images, indices = images[indices], None
        self.stored, self.labels = images.to(device), labels.to(device)
        self.indices = None if indices is None else indices.to(device)

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int | slice | Sequence[int] | Tensor) -> tuple[Tensor, Tensor]:
        return self.stored[index if self.indices is None else self.indices[index]], self.labels[index]

    @property
    def device(self) -> torch.device:
        """Where they are."""
        return self.stored.device

    @property
    def shape(self) -> tuple[int, ...]:
        """(N, C, H, W)."""
        return (len(self), *self.stored.shape[1:])

    @property
    def images(self) -> Tensor:
        """All of them (N, C, H, W): a copy, unless all that are stored are meant."""
        return self.stored if self.indices is None else self.stored[self.indices]

    def to(self, device: torch.device | str) -> "ImageTensors":
        """The same on another device."""
        return ImageTensors(self.stored, self.labels, device, self.indices)

    def subset(self, indices: Tensor) -> "ImageTensors":
        """Those with these indices (n,), in that order."""
        indices = indices.to(self.device)
        stored = indices if self.indices is None else self.indices[indices]
        return ImageTensors(self.stored, self.labels[indices], self.device, stored)

    def chunks(self) -> Iterator[Tensor]:
        """The images on the CPU, some at a time: (n, C, H, W)."""
        for first in range(0, len(self), CHUNK):
            yield self[first : first + CHUNK][0].cpu()


@dataclass
class Data:
    """The parts of a data set."""

    dataset: str  # a name in catalog.DATASETS, or the path of user images
    info: DatasetInfo
    train: ImageTensors  # to train and, unless there is `val`, to validate on
    test: ImageTensors
    val: ImageTensors | None = None
    names: Sequence[str] = ()  # file names of user images, by their indices among those stored
    warning: str = ""  # if this is the fallback
    test_seed: int | None = None  # drew which user images are held out for test; None if the test part is given

    @property
    def is_own(self) -> bool:
        """True for user images, False for a data set of the catalogue."""
        return self.dataset not in DATASETS

    @functools.cached_property
    def statistics(self) -> tuple[list[float], list[float]]:
        """Mean and standard deviation of each channel, as pixels 0..1, to 4 decimals.

        Of the images to train and to validate on.
        """
        counts = torch.zeros(self.train.shape[1], 256, dtype=torch.float64)
        for images in itertools.chain(*(part.chunks() for part in self._learned())):
            channels = images.transpose(0, 1).flatten(1)  # (n, C, H, W) -> (C, n * H * W)
            counts += torch.stack([torch.bincount(channel, minlength=256) for channel in channels])
        shares, values = counts / counts.sum(dim=1, keepdim=True), torch.arange(256).double() / 255
        mean = shares @ values
        std = (shares @ values.square() - mean.square()).clamp(min=0).sqrt()
        # 1 where nothing varies, so that pixels can be divided by it
        return [round(each, 4) for each in mean.tolist()], [round(each, 4) or 1.0 for each in std.tolist()]

    @functools.cached_property
    def fingerprint(self) -> str:
        """The sha256 of the images to train and to validate on and of their labels, in their order."""
        digest = hashlib.sha256(str(self.train.shape).encode())
        for part in self._learned():
            for images in part.chunks():
                digest.update(images.contiguous().numpy())
            digest.update(part.labels.cpu().contiguous().numpy())
        return digest.hexdigest()

    def _learned(self) -> list[ImageTensors]:
        return [self.train, self.val] if self.val else [self.train]

    def to(self, device: torch.device) -> "Data":
        """The same with its images on another device."""
        val = self.val.to(device) if self.val else None
        return replace(self, train=self.train.to(device), val=val, test=self.test.to(device))

    def split(self, config: TrainConfig) -> tuple[ImageTensors, ImageTensors]:
        """The images to train on and those to validate on, drawn unless they are given."""
        return (self.train, self.val) if self.val else split(self.train, config, by_class=self.is_own)


def split(images: ImageTensors, config: TrainConfig, by_class: bool = False) -> tuple[ImageTensors, ImageTensors]:
    """A share of config.train_split, of all images or of each class's, and the others, drawn by the config's seed."""
    if by_class:
        parts = stratified_split(images.labels.cpu(), config.train_split, config.seed)
    else:
        sizes, generator = config.split_sizes(len(images)), torch.Generator().manual_seed(config.seed)
        parts = (torch.tensor(part.indices) for part in random_split(range(len(images)), sizes, generator))
    return tuple(images.subset(part) for part in parts)


def stratified_split(labels: Tensor, share: float, seed: int, least: int = 1) -> tuple[Tensor, Tensor]:
    """The indices of a share of each class's images, drawn by the seed, and of the others: (n,) and (N - n,).

    labels: (N,). Both are ascending. At least `least` images of each class are among the former, and one among the
    latter, so there must be as many.
    """
    generator, is_first = torch.Generator().manual_seed(seed), torch.zeros(len(labels), dtype=torch.bool)
    for label in labels.unique():
        members = (labels == label).nonzero().flatten()
        count = min(max(round(len(members) * share), least), len(members) - 1)
        is_first[members[torch.randperm(len(members), generator=generator)[:count]]] = True
    return is_first.nonzero().flatten(), (~is_first).nonzero().flatten()


# --- read from the disk ---


def load_data(config: TrainConfig, data_dir: str | Path, may_fall_back: bool = False, use_cache: bool = True) -> Data:
    """Load the parts of config's data set, downloaded first if it is missing.

    may_fall_back: whether the embedded digits take its place if it can't be downloaded. use_cache: whether user images
    are kept once they are decoded. Rank 0 downloads and reads first, then the other ranks read the same.
    Raises DownloadError, or UserError if user images can't be trained on.
    """

    def load(dataset: str) -> Data:
        if dataset not in DATASETS:
            return load_own(config, use_cache)
        train, test = (ImageTensors(*_read(dataset, data_dir, part)) for part in (True, False))
        return Data(dataset, DATASETS[dataset], train, test)

    data = None
    if is_main():
        log.info("loading the %s dataset...", title_of(config.dataset))
        data = load(download.settle(config.dataset, data_dir, may_fall_back))
    dataset = broadcast(data.dataset if data else None)
    data = data or load(dataset)
    counts = (f"{len(data.train) + len(data.val or ()):,}", f"{len(data.test):,}")
    log.info("%s images to train on and to validate, %s to test", *counts)
    warning = download.fallback_warning(config.dataset) if dataset != config.dataset else ""
    return replace(data, warning=warning)


def load_images(name: str, data_dir: str | Path, train: bool) -> Images:
    """The training or the test images of the data set `name`, downloaded and verified first if they are missing.

    Raises DownloadError if files are missing and no source delivers them, and UserError if a file in place is not the
    official one.
    """
    download.ensure_dataset(name, data_dir)
    return _read(name, data_dir, train)


def _read(name: str, data_dir: str | Path, train: bool) -> Images:
    pixels, labels = download.read(name, data_dir, train)
    images, size = torch.from_numpy(pixels), DATASETS[name].image_size
    if images.shape[2] != size:
        images = nn.functional.interpolate(images.float(), size=size, mode="bicubic").round().clamp(0, 255)
    return Images(images.to(torch.uint8), torch.from_numpy(labels).long())


# --- one's own ---


def load_own(config: TrainConfig, use_cache: bool = True) -> Data:
    """Read user images to train on, hold a share of each class out for test unless a test part is given, and log them.

    Raises UserError if there is no such data set, or a class has too few images for all parts.
    """
    log.info("reading the images of %s...", config.dataset)
    how = custom.Request(config.image_size, config.fit, config.writing)
    found = custom.load(config.dataset, how, use_cache, show_progress=is_main())
    parts = _parts_of(found)
    counts = torch.bincount(parts["train"].labels, minlength=len(found.classes)).tolist()
    needed = 1 + ("val" not in parts) + ("test" not in parts)
    if small := [f"{name} {count}" for name, count in zip(found.classes, counts, strict=True) if count < needed]:
        raise UserError(
            f"--dataset {config.dataset}: a class needs {needed} or more images, so that each part has one: to train, "
            f"to validate, to test; too few: {listed(small)}"
        )
    train, test, val, test_seed = parts["train"], parts.get("test"), parts.get("val"), None
    if test is None:
        test_seed = config.seed
        train, test = _held_out(parts, config.test_split, test_seed)
    data = Data(config.dataset, found.info(len(train), len(test)), train, test, val, found.names, test_seed=test_seed)
    if is_main():
        training, validation = data.split(config)
        by_part = {"training": training, "validation": validation, "test": test}
        custom.log_summary(found, {part: images.indices.numpy() for part, images in by_part.items()}, config)
    return data


def load_own_test(
    dataset: str,
    how: Preparation,
    held_out: tuple[float, int, str] | None = None,
    is_same: bool = False,
    use_cache: bool = True,
) -> tuple[ImageTensors, list[str]]:
    """One's own test images, prepared for a network, and their classes: those of test/, else all that there are.

    held_out: where the network was trained on one's own images, the share and the seed of what was held out for test,
    and the fingerprint of what was not: then of these very images, wherever they are now, those held out. is_same:
    whether it was this folder; warns if its images have changed. Raises UserError as load_own does.
    """
    log.info("reading the images of %s...", dataset)
    found = custom.load(dataset, how, use_cache)
    parts = _parts_of(found)
    if "test" in parts:
        return parts["test"], found.classes
    if held_out and "train" in parts:
        share, seed, fingerprint = held_out
        train, test = _held_out(parts, share, seed)
        data = Data(dataset, found.info(len(train), len(test)), train, test, parts.get("val"))
        if is_same or data.fingerprint == fingerprint:
            title, count = title_of(dataset), f"{len(test):,}"
            log.info("%s: the network was trained on it; the %s images held out for test are scored", title, count)
            if data.fingerprint != fingerprint:
                log.warning("%s has changed since, so among these may be some that were trained on", title)
            return test, found.classes
    every = np.sort(np.concatenate(list(found.indices.values())))
    what = f"all {len(every):,} images are scored, which must not have been trained on"
    log.warning("%s has no test/: %s", title_of(dataset), what)
    return _stored(found).subset(torch.from_numpy(every)), found.classes


def _stored(found: custom.Collection) -> ImageTensors:
    return ImageTensors(torch.from_numpy(found.images), torch.from_numpy(found.labels))


def _parts_of(found: custom.Collection) -> dict[str, ImageTensors]:
    stored = _stored(found)
    return {part: stored.subset(torch.from_numpy(indices)) for part, indices in found.indices.items()}


def _held_out(parts: dict[str, ImageTensors], share: float, seed: int) -> tuple[ImageTensors, ImageTensors]:
    # the images to train on and, unless these are given, to validate on, and a share of each class for test
    images, least = parts["train"], 1 if "val" in parts else 2
    train, test = stratified_split(images.labels, 1 - share, derived_seed(seed, "test split"), least)
    return images.subset(train), images.subset(test)


# --- in batches ---


class Normalisation(nn.Module):
    """(pixel / 255 - mean) / std, the input that a network is trained on; mean and std per channel, of pixels 0..1."""

    def __init__(self, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        # times 255, so that a pixel takes one subtraction and one division; (C,) -> (C, 1, 1)
        self.register_buffer("mean", torch.tensor(mean).view(-1, 1, 1) * 255)
        self.register_buffer("std", torch.tensor(std).view(-1, 1, 1) * 255)

    def forward(self, images: Tensor) -> Tensor:
        """Pixels 0..255 of any dtype, (N, C, H, W) -> float32 of the same shape, channels-last."""
        return (images.float() - self.mean).div_(self.std).contiguous(memory_format=torch.channels_last)


def pixels_of(image: Tensor) -> np.ndarray:
    """An image (C, H, W) of 1 or 3 channels as OpenCV and Pillow take it: (H, W) or (H, W, 3)."""
    return image.permute(1, 2, 0).squeeze(2).cpu().numpy()


class BatchIndices(Sampler[Tensor]):
    """This rank's indices of each batch, in order or, given a seed, shuffled by seed and epoch.

    An epoch's order is drawn on the CPU, the same for every device, and moved to the images in one piece: a transfer
    for each batch would make the CPU wait for the device each time. set_epoch says where iterating begins.
    """

    def __init__(self, dataset: ImageTensors, global_batch_size: int, seed: int | None = None) -> None:
        self.dataset, self.global_batch_size, self.seed = dataset, global_batch_size, seed
        self.epoch, self.step = 1, 0  # of the batch that comes next

    def __len__(self) -> int:
        return -(-len(self.dataset) // self.global_batch_size)

    def set_epoch(self, epoch: int, step: int = 0) -> None:
        """Let the next iteration be epoch `epoch`, counted from 1, without its first `step` batches."""
        self.epoch, self.step = epoch, step

    def size(self, step: int) -> int:
        """How many images are in batch `step`, counted from 0, of all ranks together: the last may be smaller."""
        return min(self.global_batch_size, len(self.dataset) - step * self.global_batch_size)

    def __iter__(self) -> Iterator[Tensor]:
        order = torch.arange(len(self.dataset))
        if self.seed is not None:
            generator = torch.Generator().manual_seed(derived_seed(self.seed, "shuffle", self.epoch))
            order = torch.randperm(len(self.dataset), generator=generator)
        batches = order.to(self.dataset.device).split(self.global_batch_size)
        first, self.step = self.step, 0
        for step, batch in enumerate(batches[first:], start=first):
            self.step = step
            yield shard(batch)
        self.step = 0


def make_loader(
    dataset: ImageTensors,
    batch_size: int,
    normalise: Normalisation,
    shuffle_seed: int | None = None,
    distortion: RandomDistortion | None = None,
) -> DataLoader:
    """A DataLoader of this rank's shards of whole batches (the last may be smaller), shuffled where a seed is given.

    batch_size: images of all ranks together. Yields what a network takes, float32 (N, C, H, W), and labels (N,); where
    there are fewer images than ranks, some ranks get a filler whose label is PADDING. `sampler` is its BatchIndices.
    """
    batches = BatchIndices(dataset, batch_size, shuffle_seed)

    def prepare(shard_of_batch: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        images, labels = shard_of_batch
        size = batches.size(batches.step)
        if distortion:
            images = distortion(images, batches.epoch, batches.step, size)
        return normalise(images), torch.full_like(labels, PADDING) if is_padding(size) else labels

    # a generator of its own: starting to iterate would draw from torch's default one
    return DataLoader(
        dataset, batch_size=None, sampler=batches, collate_fn=prepare, generator=torch.Generator().manual_seed(0)
    )


def evaluation_loader(dataset: ImageTensors, normalise: Normalisation) -> DataLoader:
    """A DataLoader of images in their order, in batches that suit evaluation, for all ranks together."""
    return make_loader(dataset, EVAL_BATCH_SIZE * world_size(), normalise)
