"""Image tensors: read from files, split into training and validation, normalised, and batched by DataLoaders."""

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
from torch.utils.data import DataLoader, Dataset, Sampler

from neural_lib.config import MAX_SMALL_SIZE, TrainConfig, derived_seed
from neural_lib.data import custom, download
from neural_lib.data.augment import RandomDistortion
from neural_lib.data.catalog import DATASETS, DatasetInfo, Preparation, dataset_error, title_of
from neural_lib.data.groups import grouped_split
from neural_lib.data.pictures import listed
from neural_lib.system.distributed import PADDING, broadcast, is_main, is_padding, shard, world_size
from neural_lib.system.errors import UserError, printable
from neural_lib.system.files import MappedPages

# Images of a batch to score, in each rank: more than in training, since scoring keeps no activations for gradients.
EVAL_BATCH_SIZE = 250
EVAL_PIXELS = {"cpu": 400_000, "gpu": 6_400_000}  # of a batch of images above MAX_SMALL_SIZE (tests/README.md)
CHUNK, CHUNK_SIZE = 1000, 1 << 23  # limits of what is read together: images, and bytes

log = logging.getLogger(__name__)


def eval_batch_size(image_size: int, device: torch.device) -> int:
    """The number of images that each rank scores together: fewer if they are large.

    The first layers' outputs of large images are large, and on a CPU new memory for them takes longer than computing.
    """
    if image_size <= MAX_SMALL_SIZE:
        return EVAL_BATCH_SIZE
    pixels = EVAL_PIXELS["cpu" if device.type == "cpu" else "gpu"]
    return min(EVAL_BATCH_SIZE, max(1, pixels // image_size**2))


def fits_on(device: torch.device | str, size: int) -> bool:
    """True if images of `size` bytes move to a device as a whole: they take at most half of a GPU's free memory."""
    return torch.device(device).type != "cuda" or size <= torch.cuda.mem_get_info(device)[0] // 2


class ImageTensors(Dataset):
    """A data set of images (N, C, H, W), uint8, and labels (N,), int64, which gives batches on `device`.

    An index can be a tensor of indices, which gives a whole batch at once. images: stay where they are; each batch is
    gathered there and, if that is another device, moved; see `to`. indices: (N,), the positions in `images` of the
    images that belong to this data set, in order; None for all. So the parts of a data set share one tensor, which may
    be mapped from a file: `pages` bounds its resident memory. labels: of this data set's images. names, groups: of the
    images in `images`, such as their files' paths, and the sheets that they were cut from; may be empty.
    """

    def __init__(
        self,
        images: Tensor,
        labels: Tensor,
        device: torch.device | str = "cpu",
        indices: Tensor | None = None,
        pages: MappedPages | None = None,
        names: Sequence[str] = (),
        groups: Sequence[str] = (),
    ) -> None:
        self.stored, self.labels, self.pages, self.names = images, labels.to(device), pages, names
        self.groups = groups
        self.indices = None if indices is None else indices.to(images.device)

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int | slice | Sequence[int] | Tensor) -> tuple[Tensor, Tensor]:
        images = self._gathered(index)
        if images.device != self.device:
            images = _moved(images, self.device)
            index = _moved(index, self.device) if isinstance(index, Tensor) else index
        return images, self.labels[index]

    def _gathered(self, index: int | slice | Sequence[int] | Tensor) -> Tensor:
        # Images on the device where they are stored.
        images = self.stored[index if self.indices is None else self.indices[index]]
        if self.pages:
            self.pages.add(images.numel() // self.image_bytes, self.image_bytes)
        return images

    @property
    def device(self) -> torch.device:
        """The device of batches and labels."""
        return self.labels.device

    @property
    def image_size(self) -> int:
        """Height and width, pixels."""
        return self.stored.shape[-1]

    @property
    def image_bytes(self) -> int:
        """The size of an image, bytes."""
        return self.stored.shape[1:].numel()

    @property
    def images(self) -> Tensor:
        """The images (N, C, H, W): the stored tensor, or a copy if `indices` select some of it."""
        return self.stored if self.indices is None else self.stored[self.indices]

    def name(self, index: int) -> str:
        """The name of an image, such as its file's path in the data set; "" if the images have no names."""
        return self.names[index if self.indices is None else int(self.indices[index])] if self.names else ""

    def own_groups(self) -> list[str]:
        """The group of each image of this data set; empty if the images have no groups."""
        indices = range(len(self)) if self.indices is None else self.indices.tolist()
        return [self.groups[index] for index in indices] if self.groups else []

    def on_cpu(self) -> "ImagesOnCPU":
        """The images on the CPU, each copied when it is indexed."""
        return ImagesOnCPU(self)

    def to(self, device: torch.device | str, as_a_whole: bool | None = None) -> "ImageTensors":
        """The same data set on another device.

        as_a_whole: True to move all images now, False to move each batch; default: as fits_on says.
        """
        if as_a_whole is None:
            as_a_whole = fits_on(device, len(self) * self.image_bytes)
        if not as_a_whole or torch.device(device).type == self.stored.device.type:
            return ImageTensors(self.stored, self.labels, device, self.indices, self.pages, self.names, self.groups)
        images = torch.empty(len(self), *self.stored.shape[1:], dtype=torch.uint8, device=device)
        first = 0
        for chunk in self.chunks():
            images[first : first + len(chunk)] = chunk
            first += len(chunk)
        names = [self.name(index) for index in range(len(self))] if self.names else ()
        return ImageTensors(images, self.labels, device, names=names, groups=self.own_groups())

    def labelled(self, labels: Tensor) -> "ImageTensors":
        """The same images with other labels (N,)."""
        return ImageTensors(self.stored, labels, self.device, self.indices, self.pages, self.names, self.groups)

    def subset(self, indices: Tensor) -> "ImageTensors":
        """The data set of the images with these indices (n,), in that order."""
        stored = indices.to(self.stored.device)
        stored = stored if self.indices is None else self.indices[stored]
        labels = self.labels[indices.to(self.device)]
        return ImageTensors(self.stored, labels, self.device, stored, self.pages, self.names, self.groups)

    def evenly(self, max_count: int) -> "ImageTensors":
        """The data set of at most max_count of the images, spread evenly over all of them."""
        count = min(len(self), max_count)
        return self.subset(torch.arange(count) * len(self) // max(count, 1))

    def chunks(self) -> Iterator[Tensor]:
        """The images in pieces (n, C, H, W) of at most CHUNK images and CHUNK_SIZE bytes, on the CPU."""
        length = _chunk_length(self.image_bytes)
        for first in range(0, len(self), length):
            yield self._gathered(slice(first, first + length)).cpu()


def _chunk_length(image_bytes: int) -> int:
    # The number of images that are read together.
    return max(1, min(CHUNK, CHUNK_SIZE // image_bytes))


def _moved(batch: Tensor, device: torch.device) -> Tensor:
    # To a GPU from pinned memory, so that the CPU doesn't wait for the copy.
    return (batch.pin_memory() if device.type == "cuda" else batch).to(device, non_blocking=True)


class ImagesOnCPU:
    """The images of a data set without labels, indexed like a tensor (N, C, H, W); only what is indexed is copied."""

    def __init__(self, dataset: ImageTensors) -> None:
        self.dataset = dataset

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int | slice | Tensor) -> Tensor:
        return self.dataset._gathered(index).cpu()


class Parts(NamedTuple):
    """The parts of a data set, as a network was trained, validated and tested on them."""

    test: ImageTensors
    train: ImageTensors | None = None  # None if the network was trained on another data set
    val: ImageTensors | None = None  # None if it was drawn from train

    def labelled(self, labels: Tensor) -> "Parts":
        """The same parts with other labels; labels: (classes,), the new one of each class."""
        return Parts(*(each and each.labelled(labels[each.labels]) for each in self))

    def split(self, config: TrainConfig, by_class: bool) -> tuple[ImageTensors, ImageTensors]:
        """The images for training and for validation: the given parts, or a random split by the config's seed."""
        return (self.train, self.val) if self.val else split(self.train, config, by_class)

    def to(self, device: torch.device) -> "Parts":
        """The same parts on another device."""
        return Parts(*(each and each.to(device) for each in self))


@dataclass
class Data:
    """A data set with its parts."""

    dataset: str  # a name in catalog.DATASETS, or the path of user images
    info: DatasetInfo
    train: ImageTensors  # for training and, if `val` is None, validation
    test: ImageTensors
    val: ImageTensors | None = None
    warning: str = ""  # not empty if this data set replaces one that could not be downloaded
    test_seed: int | None = None  # seed that drew the user images held out for test; None if the test part is given
    min_val: int = 0  # images that validate if they are drawn from those to train on, unless that is too many
    parts: Sequence[str] = ()  # the parts in which user images are given: "train", "val", "test"

    @property
    def has_user_images(self) -> bool:
        """True for user images, False for a data set of the catalogue."""
        return self.dataset not in DATASETS

    @functools.cached_property
    def statistics(self) -> tuple[list[float], list[float]]:
        """Mean and standard deviation of each channel, pixels scaled to 0..1, rounded to 4 decimals.

        They are computed from the images for training and validation.
        """
        counts = torch.zeros(self.train.stored.shape[1], 256, dtype=torch.float64)
        for images in itertools.chain(*(part.chunks() for part in self._train_and_val())):
            channels = images.transpose(0, 1).flatten(1)  # (n, C, H, W) -> (C, n * H * W)
            counts += torch.stack([torch.bincount(channel, minlength=256) for channel in channels])
        shares, values = counts / counts.sum(dim=1, keepdim=True), torch.arange(256).double() / 255
        mean = shares @ values
        std = (shares @ values.square() - mean.square()).clamp(min=0).sqrt()
        # The deviation of a constant channel is set to 1, so that pixels can be divided by it.
        return [round(each, 4) for each in mean.tolist()], [round(each, 4) or 1.0 for each in std.tolist()]

    @functools.cached_property
    def fingerprint(self) -> str:
        """The sha256 of the images for training and validation and of their labels, in order."""
        shape = (len(self.train), *self.train.stored.shape[1:])  # (N, C, H, W)
        digest = hashlib.sha256(str(shape).encode())
        for part in self._train_and_val():
            for images in part.chunks():
                digest.update(images.contiguous().numpy())
            digest.update(part.labels.cpu().contiguous().numpy())
        return digest.hexdigest()

    @functools.cached_property
    def val_fingerprint(self) -> str:
        """The pixel_digest of the validation images; "" if they are drawn from those to train on."""
        return pixel_digest(self.val.on_cpu()) if self.val else ""

    @property
    def given(self) -> Parts:
        """The parts as they are given: before validation images are drawn from those to train on."""
        return Parts(self.test, self.train, self.val)

    def _train_and_val(self) -> list[ImageTensors]:
        return [self.train, self.val] if self.val else [self.train]

    def to(self, device: torch.device) -> "Data":
        """The same data on another device; if not all images fit there (fits_on), each batch is moved."""
        size = sum(len(part) * part.image_bytes for part in (*self._train_and_val(), self.test))
        as_a_whole = fits_on(device, size)
        if not as_a_whole:
            text = "the images take %.1f GB, more than half of the device's free memory: they are moved batch by batch"
            log.info(text, size / 1e9)
        train, test = (part.to(device, as_a_whole) for part in (self.train, self.test))
        return replace(self, train=train, val=self.val and self.val.to(device, as_a_whole), test=test)

    def with_enough_to_validate(self, config: TrainConfig) -> TrainConfig:
        """The configuration with a train_split by which min_val images validate, but no more than a third."""
        if self.val or not self.min_val:
            return config
        share = max(1 - config.train_split, min(self.min_val / len(self.train), 1 / 3))
        return replace(config, train_split=round(1 - share, 4))

    def split(self, config: TrainConfig) -> tuple[ImageTensors, ImageTensors]:
        """The images for training and for validation; see Parts.split."""
        return self.given.split(config, by_class=self.has_user_images)


def pixel_digest(images: Tensor | ImagesOnCPU) -> str:
    """The sha256 of images (N, C, H, W) in their order, which doesn't depend on their labels."""
    digest = hashlib.sha256(str((len(images), *images[0].shape)).encode())
    length = _chunk_length(images[0].numel())
    for first in range(0, len(images), length):
        digest.update(images[first : first + length].contiguous().numpy())
    return digest.hexdigest()


def split(images: ImageTensors, config: TrainConfig, by_class: bool = False) -> tuple[ImageTensors, ImageTensors]:
    """Split images at random: a share of config.train_split (by_class: of each class), and the rest.

    Images of one group stay together if they have groups.
    """
    if by_class:
        parts = stratified_split(images, config.train_split, config.seed)
    else:
        sizes, generator = config.split_sizes(len(images)), torch.Generator().manual_seed(config.seed)
        parts = torch.randperm(len(images), generator=generator).split(sizes)
    return tuple(images.subset(part) for part in parts)


def stratified_split(images: ImageTensors, share: float, seed: int, min_count: int = 1) -> tuple[Tensor, Tensor]:
    """The indices of a random share of each class's images, (n,), and of the rest, (N - n,); both ascending.

    The first part gets at least min_count images of each class and the second at least one, so each class needs
    min_count + 1 images. If the images have groups, see grouped_split.
    """
    labels = images.labels.cpu()
    if images.groups:
        is_first = torch.from_numpy(grouped_split(labels.numpy(), images.own_groups(), share, seed, min_count))
        return is_first.nonzero().flatten(), (~is_first).nonzero().flatten()
    generator, is_first = torch.Generator().manual_seed(seed), torch.zeros(len(labels), dtype=torch.bool)
    for label in labels.unique():
        members = (labels == label).nonzero().flatten()
        count = min(max(round(len(members) * share), min_count), len(members) - 1)
        is_first[members[torch.randperm(len(members), generator=generator)[:count]]] = True
    return is_first.nonzero().flatten(), (~is_first).nonzero().flatten()


# --- read from the disk ---


def load_data(
    config: TrainConfig,
    data_dir: str | Path,
    may_fall_back: bool = False,
    use_cache: bool = True,
    min_val: int = 0,
) -> Data:
    """Load the data set of a configuration, which is downloaded if it is missing.

    may_fall_back: True if the embedded digits may replace a data set that can't be downloaded. use_cache: True to keep
    decoded user images in a file. min_val: see Data. Rank 0 downloads and reads first; then the other ranks read the
    same files.
    Raises DownloadError, or UserError if user images can't be trained on.
    """

    def load(dataset: str) -> Data:
        if dataset not in DATASETS:
            return load_user_images(config, use_cache, min_val)
        train, test = (_read(dataset, data_dir, part) for part in (True, False))
        info = DATASETS[dataset]
        if is_main():
            counts = torch.bincount(train.labels, minlength=len(info.classes)).tolist()
            custom.warn_if_unequal(info.classes, counts, config)
        return Data(dataset, info, train, test)

    data = settled = None
    if is_main():
        log.info("loading the %s dataset...", title_of(config.dataset))
        settled = download.settle(config.dataset, data_dir, may_fall_back)
        data = load(settled[0])
    dataset, warning = broadcast(settled)
    data = data or load(dataset)
    counts = (f"{len(data.train) + len(data.val or ()):,}", f"{len(data.test):,}")
    log.info("%s images to train on and to validate, %s to test", *counts)
    return replace(data, warning=warning)


def load_images(name: str, data_dir: str | Path, train: bool) -> ImageTensors:
    """Load the training or the test images of the data set `name`; see download.ensure_dataset for missing files."""
    download.ensure_dataset(name, data_dir)
    return _read(name, data_dir, train)


def _read(name: str, data_dir: str | Path, train: bool) -> ImageTensors:
    info = DATASETS[name]
    pixels, labels = download.READERS[info.format](Path(data_dir) / info.folder, info, train)
    images = torch.from_numpy(pixels)
    if images.shape[2] != info.image_size:
        images = nn.functional.interpolate(images.float(), size=info.image_size, mode="bicubic").round().clamp(0, 255)
    names = [f"{'train' if train else 'test'}[{index}]" for index in range(len(labels))]
    return ImageTensors(images.to(torch.uint8), torch.from_numpy(labels).long(), names=names)


# --- user images ---


def load_user_images(config: TrainConfig, use_cache: bool = True, min_val: int = 0) -> Data:
    """Read user images to train on, and log a summary; without a test part, images of another part are held out.

    Raises UserError if there is no such data set, a part is missing, or a class has too few images for all parts.
    """
    log.info("reading the images of %s...", config.dataset)
    request = custom.Request(config.image_size, config.fit, config.writing)
    collection = custom.load(config.dataset, request, use_cache, config.labels_from_names, config.group_by)
    parts = {part: _images_of(collection, indices) for part, indices in collection.indices.items()}
    classes, test_source, val_source = collection.classes, config.test_source(parts), config.val_source(parts)
    if test_source not in parts:
        raise UserError(f"--test val: {config.dataset} has no val/; add one, or leave that option out")
    units = parts["train"].own_groups() or range(len(parts["train"]))  # what each image belongs to that isn't divided
    of_class = [label for label, _ in {*zip(parts["train"].labels.tolist(), units, strict=True)}]
    what = f"groups by {printable(config.group_by)}" if config.group_by else "images"
    counts = np.bincount(of_class, minlength=len(classes)).tolist()
    needed = 1 + (val_source == "train") + (test_source == "train")
    advice = "; add some, or leave out --group-by" if config.group_by else ""
    if small := [f"{name} {count}" for name, count in zip(classes, counts, strict=True) if count < needed]:
        raise UserError(
            f"--dataset {config.dataset}: a class needs {needed} or more {what}, so that each part has one: to train, "
            f"to validate, to test; too few: {listed(small)}{advice}"
        )
    train, val, test = _divided(parts, config)
    if val_source == "val" and not val:
        raise UserError(f"--test-split {config.test_split} leaves no image of val/ to validate; leave that option out")
    info, test_seed = collection.info(len(train), len(test)), None if "test" in parts else config.seed
    data = Data(config.dataset, info, train, test, val, test_seed=test_seed, min_val=min_val, parts=[*parts])
    if not (config.group_by or is_main()):
        return data
    train_part, val_part = data.split(data.with_enough_to_validate(config))
    if config.group_by:
        sources = {"train": (train_part, "train"), "validate": (val_part, val_source), "test": (test, test_source)}
        for purpose, (images, source) in sources.items():
            if lacking := sorted({*parts[source].labels.tolist()} - {*images.labels.tolist()}):
                which = f"no way was found to divide its groups by {printable(config.group_by)} that leaves images"
                names = listed([classes[label] for label in lacking])
                advice = "add groups with such images, or leave out --group-by"
                raise dataset_error(config.dataset, f"{which} of {names} to {purpose}; {advice}")
    if is_main():
        by_part = {"training": train_part, "validation": val_part, "test": test}
        custom.log_summary(collection, {part: images.indices.numpy() for part, images in by_part.items()}, config)
    return data


def load_user_test_images(
    dataset: str,
    preparation: Preparation,
    held_out: tuple[TrainConfig, str] | None,
    is_same: bool,
    use_cache: bool,
    from_names: bool = False,
    group_by: str = "",
) -> tuple[Parts, list[str]]:
    """Load the user images to score a network on, and their class names.

    These are the images of test/. If there are none, they are the images held out when the network was trained on this
    data set, even if it was moved since; else, with a warning, all images. preparation: the network's. held_out: the
    configuration, with the seed, by which images were held out from its training, and the fingerprint of the rest; None
    if no images were. is_same: True if it was trained on this path: then the parts that it learned from are returned,
    too; if the images have changed since, a warning is logged. from_names: see custom.load. group_by: by which it was
    divided when the network was trained. Raises UserError if the images can't be read.
    """
    log.info("reading the images of %s...", dataset)
    title = title_of(dataset)
    try:
        collection = custom.load(dataset, preparation, use_cache, from_names, group_by)
    except UserError:
        if is_same or not group_by:
            raise
        # Another data set needs no such groups.
        collection, held_out = custom.load(dataset, preparation, use_cache, from_names), None
    parts = {part: _images_of(collection, indices) for part, indices in collection.indices.items()}
    if "test" in parts:
        learned = (parts.get("train"), parts.get("val")) if is_same else ()
        return Parts(parts["test"], *learned), collection.classes
    if held_out and {"train", held_out[0].test} <= parts.keys():
        config, fingerprint = held_out
        train, val, test = _divided(parts, config)
        data = Data(dataset, collection.info(len(train), len(test)), train, test, val)
        if len(test) and (is_same or data.fingerprint == fingerprint):
            count = f"{len(test):,}"
            log.info("%s: the network was trained on it; the %s images held out for test are scored", title, count)
            if data.fingerprint != fingerprint:
                log.warning("%s has changed since, so among these may be some that were trained on", title)
            return Parts(test, *((train, val) if is_same else ())), collection.classes
    every = np.sort(np.concatenate(list(collection.indices.values())))
    what = f"all {len(every):,} images are scored, which must not have been trained on"
    log.warning("%s has no test/: %s", title, what)
    return Parts(_images_of(collection, every)), collection.classes


def _images_of(collection: custom.Collection, indices: np.ndarray) -> ImageTensors:
    chosen, labels = torch.from_numpy(indices), torch.from_numpy(collection.labels)
    images, pages = torch.from_numpy(collection.images), MappedPages(collection.images.base)
    return ImageTensors(
        images, labels[chosen], indices=chosen, pages=pages, names=collection.names, groups=collection.groups
    )


def _divided(
    parts: dict[str, ImageTensors], config: TrainConfig
) -> tuple[ImageTensors, ImageTensors | None, ImageTensors]:
    # The images to train on, to validate on (None: to be drawn from those to train on) and to test on. If a share of
    # train/ is held out for test, at least one image of each class stays, or two if they are for validation too.
    train, val, source = parts["train"], parts.get("val"), config.test_source(parts)
    if source == "test":
        return train, val, parts["test"]
    if source == "val" and config.test_split == 1:
        return train, None, val
    seed, min_count = derived_seed(config.seed, "test split"), 1 if val else 2
    drawn = stratified_split(parts[source], 1 - config.test_split, seed, min_count)
    rest, test = (parts[source].subset(indices) for indices in drawn)
    return (rest, val, test) if source == "train" else (train, rest, test)


# --- in batches ---


class Normalisation(nn.Module):
    """Computes a network's input, (pixel / 255 - mean) / std; mean, std: of each channel, pixels scaled to 0..1."""

    def __init__(self, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        # Scaled by 255, so that each pixel takes one subtraction and one division. (C,) -> (C, 1, 1)
        self.register_buffer("mean", torch.tensor(mean).view(-1, 1, 1) * 255)
        self.register_buffer("std", torch.tensor(std).view(-1, 1, 1) * 255)

    def forward(self, images: Tensor) -> Tensor:
        """Normalise pixels 0..255 of any dtype, (N, C, H, W); returns float32 of the same shape, channels-last."""
        return (images.float() - self.mean).div_(self.std).contiguous(memory_format=torch.channels_last)


def pixels_of(image: Tensor) -> np.ndarray:
    """Convert an image (C, H, W) to a NumPy array for OpenCV and Pillow: (H, W) for 1 channel, else (H, W, 3)."""
    return image.permute(1, 2, 0).squeeze(2).cpu().numpy()


class BatchIndices(Sampler[Tensor]):
    """Samples this rank's indices of each batch: in order or, given a seed, in an order drawn by seed and epoch.

    The order of an epoch is drawn on the CPU, the same for every device, and copied at once to where the images are
    stored: a copy for each batch would make the CPU wait for the device each time.
    """

    def __init__(self, dataset: ImageTensors, global_batch_size: int, seed: int | None = None) -> None:
        self.dataset, self.global_batch_size, self.seed = dataset, global_batch_size, seed
        self.epoch, self.step = 1, 0  # position of the next batch

    def __len__(self) -> int:
        return -(-len(self.dataset) // self.global_batch_size)

    def set_epoch(self, epoch: int, step: int = 0) -> None:
        """Set the epoch, from 1, of the next iteration, which skips the first `step` batches."""
        self.epoch, self.step = epoch, step

    def size(self, step: int) -> int:
        """The number of images in batch `step`, from 0, over all ranks; the last batch may be smaller."""
        return min(self.global_batch_size, len(self.dataset) - step * self.global_batch_size)

    def __iter__(self) -> Iterator[Tensor]:
        order = torch.arange(len(self.dataset))
        if self.seed is not None:
            generator = torch.Generator().manual_seed(derived_seed(self.seed, "shuffle", self.epoch))
            order = torch.randperm(len(self.dataset), generator=generator)
        batches = order.to(self.dataset.stored.device).split(self.global_batch_size)
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
    """A DataLoader of this rank's shards of the batches; the last batch may be smaller.

    batch_size: images over all ranks. shuffle_seed: None for the images' order. distortion: applied before
    normalise. Yields network inputs, float32 (N, C, H, W), and labels (N,). A rank without an image in a batch gets a
    filler with the label PADDING. The attribute `sampler` is the BatchIndices.
    """
    batches = BatchIndices(dataset, batch_size, shuffle_seed)

    def prepare(shard_of_batch: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        images, labels = shard_of_batch
        size = batches.size(batches.step)
        if distortion:
            images = distortion(images, batches.epoch, batches.step, size)
        return normalise(images), torch.full_like(labels, PADDING) if is_padding(size) else labels

    # With a separate generator, since each iteration draws a number, by default from torch's global generator.
    return DataLoader(
        dataset, batch_size=None, sampler=batches, collate_fn=prepare, generator=torch.Generator().manual_seed(0)
    )


def evaluation_loader(dataset: ImageTensors, normalise: Normalisation) -> DataLoader:
    """A DataLoader for scoring: the images in their order, in batches of eval_batch_size for each rank."""
    return make_loader(dataset, eval_batch_size(dataset.image_size, dataset.device) * world_size(), normalise)
