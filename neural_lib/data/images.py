"""Images in memory: read, normalised, split into training and validation, and dealt out in batches by DataLoaders."""

import functools
import hashlib
import io
import logging
import pickle
import textwrap
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, Sampler, random_split

from neural_lib.config import TrainConfig, derived_seed
from neural_lib.data import download
from neural_lib.data.augment import RandomDistortion
from neural_lib.data.catalog import DATASETS, FALLBACK, DatasetInfo
from neural_lib.data.download import DownloadError
from neural_lib.system.distributed import PADDING, broadcast, is_main, is_padding, shard, world_size
from neural_lib.system.errors import UserError

EVAL_BATCH_SIZE = 250  # images in each rank; scoring needs no gradients, so more fit at once, with fewer calls an image

log = logging.getLogger(__name__)


class Images(NamedTuple):
    """One part of a data set: uint8 images (N, C, H, W) and int64 labels (N,)."""

    images: Tensor
    labels: Tensor


@dataclass
class Data:
    """Both parts of a data set, and a warning if it is the fallback instead of the one that was meant."""

    dataset: str  # a name in catalog.DATASETS
    train: Images
    test: Images
    warning: str = ""

    @functools.cached_property
    def statistics(self) -> tuple[list[float], list[float]]:
        """Mean and standard deviation of each channel of the training images, as pixels 0..1, to 4 decimals."""
        channels = self.train.images.transpose(0, 1).flatten(1)  # (N, C, H, W) -> (C, N * H * W)
        counts = torch.stack([torch.bincount(channel, minlength=256) for channel in channels]).double()
        shares, values = counts / counts.sum(dim=1, keepdim=True), torch.arange(256).double() / 255
        mean = shares @ values
        std = (shares @ values.square() - mean.square()).sqrt()
        return [round(each, 4) for each in mean.tolist()], [round(each, 4) for each in std.tolist()]

    @functools.cached_property
    def fingerprint(self) -> str:
        """The sha256 of the training images and their labels, in their order."""
        digest = hashlib.sha256(str(tuple(self.train.images.shape)).encode())
        for tensor in self.train:
            digest.update(tensor.contiguous().numpy())
        return digest.hexdigest()


# --- read from the disk ---


def load_data(dataset: str, data_dir: str | Path, may_fall_back: bool) -> Data:
    """Load both parts of a data set; the embedded digits if it can't be downloaded and `may_fall_back`.

    Rank 0 loads, and downloads, first; the other ranks then read the same. Raises DownloadError.
    """
    data = _load_or_fall_back(dataset, data_dir, may_fall_back) if is_main() else None
    loaded = broadcast(data.dataset if data else None)
    return data or Data(loaded, *_load_parts(loaded, data_dir))


def _load_or_fall_back(dataset: str, data_dir: str | Path, may_fall_back: bool) -> Data:
    title = DATASETS[dataset].title
    log.info("loading the %s dataset...", title)
    try:
        return Data(dataset, *_load_parts(dataset, data_dir))
    except DownloadError as error:
        failure = f"{title} could not be loaded: {error}"
    if not may_fall_back:
        raise DownloadError(
            f"{failure}; or train on the embedded digits with --dataset {FALLBACK}, and with another --model where "
            "that one's network is to stay"
        )
    warning = f"this run uses {FALLBACK}, NOT {dataset}, which could not be loaded"
    ruler = "=" * 78
    folded = textwrap.fill(failure, 78, break_on_hyphens=False, break_long_words=False)  # file names stay whole
    log.warning("\n%s\n%s\n\n%s\n%s", ruler, warning.upper(), folded, ruler)
    return Data(FALLBACK, *_load_parts(FALLBACK, data_dir), warning)


def _load_parts(dataset: str, data_dir: str | Path) -> list[Images]:
    _ensure_files(dataset, data_dir)
    return [_read(dataset, data_dir, train) for train in (True, False)]


def load_images(name: str, data_dir: str | Path, train: bool) -> Images:
    """The training or the test images of the data set `name`, downloaded and verified first where that is needed.

    Raises DownloadError if files are missing and no source delivers them, and UserError where a file in place is not
    the official one.
    """
    _ensure_files(name, data_dir)
    return _read(name, data_dir, train)


def _ensure_files(name: str, data_dir: str | Path) -> None:
    info = DATASETS[name]
    if info.sha256:
        download.ensure_files(Path(data_dir) / info.folder, info.sha256, info.sources)


def _read(name: str, data_dir: str | Path, train: bool) -> Images:
    info = DATASETS[name]
    images, labels = READERS[info.format](Path(data_dir) / info.folder, info, train)
    return Images(torch.from_numpy(images), torch.from_numpy(labels).long())


def is_there(name: str, data_dir: str | Path) -> bool:
    """True if load_images would find the files of the data set `name` on the disk, or needs none."""
    info = DATASETS[name]
    return all((Path(data_dir) / info.folder / file).exists() for file in info.sha256)


def read_idx(folder: Path, info: DatasetInfo, train: bool) -> tuple[np.ndarray, np.ndarray]:
    """Images (N, 1, H, W) and labels (N,) of MNIST's format (http://yann.lecun.com/exdb/mnist/), which others share."""
    part = "train" if train else "t10k"
    images, labels = (_idx_array(folder / f"{part}-{kind}-ubyte") for kind in ("images-idx3", "labels-idx1"))
    return images[:, None], labels  # (N, H, W) -> (N, 1, H, W)


def _idx_array(path: Path) -> np.ndarray:
    # The inverse of download.idx_bytes, for files whose checksums are right. torchvision can read them, but importing
    # it takes another second, and its KMNIST class would prefer an unverified processed/training.pt of old versions.
    values = np.fromfile(path, dtype=np.uint8)
    lengths = values[4 : 4 + 4 * values[3]].view(">i4")  # values[3]: the number of axes
    return values[4 + 4 * values[3] :].reshape(lengths)


def read_cifar(folder: Path, info: DatasetInfo, train: bool) -> tuple[np.ndarray, np.ndarray]:
    """Images (N, 3, 32, 32) and labels (N,) of CIFAR-10's "python version" (https://www.cs.toronto.edu/~kriz/cifar.html).

    Its files are pickles, which can run any code when they are read, so the very bytes that are unpickled are checked
    first. Raises UserError if they aren't the official ones.
    """
    batches = []
    for name in info.sha256:
        if name.startswith("data_batch_" if train else "test_batch"):
            content = (folder / name).read_bytes()
            if hashlib.sha256(content).hexdigest() != info.sha256[name]:
                raise UserError(f"{folder / name}: damaged, or not the official file (its sha256 differs); delete it")
            with warnings.catch_warnings(action="ignore"):  # NumPy's, of how Python 2 described a dtype
                batches.append(pickle.load(io.BytesIO(content), encoding="latin1"))
    pixels = np.concatenate([batch["data"] for batch in batches])  # (N, 3072): all red, then green, then blue
    labels = np.concatenate([batch["labels"] for batch in batches])
    return pixels.reshape(-1, 3, 32, 32), labels


def read_digits(folder: Path, info: DatasetInfo, train: bool) -> tuple[np.ndarray, np.ndarray]:
    """Images (N, 1, 28, 28) and labels (N,) of scikit-learn's digits, 8x8 enlarged; the last 297 are the test part."""
    from sklearn.datasets import load_digits  # nearly a second, and only this data set needs it

    pixels, labels = load_digits(return_X_y=True)
    images = torch.from_numpy(pixels).float().view(-1, 1, 8, 8) * (255 / 16)  # (N, 64) -> (N, 1, 8, 8)
    images = nn.functional.interpolate(images, size=info.image_size, mode="bicubic")  # -> (N, 1, 28, 28)
    part = slice(None, info.train_size) if train else slice(info.train_size, None)
    return images.round().clamp(0, 255).to(torch.uint8).numpy()[part], labels[part]


READERS = {"idx": read_idx, "cifar": read_cifar, "digits": read_digits}


# --- in memory ---


class ImageTensors(Dataset):
    """Images (N, C, H, W), uint8, and labels (N,), int64, in the memory of `device`.

    An index of many is a whole batch: one gather instead of N decodings.
    """

    def __init__(self, images: Tensor, labels: Tensor, device: torch.device | str = "cpu") -> None:
        self.images, self.labels = images.to(device), labels.to(device)

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int | Sequence[int] | Tensor) -> tuple[Tensor, Tensor]:
        return self.images[index], self.labels[index]


def split(dataset: ImageTensors, config: TrainConfig) -> tuple[ImageTensors, ImageTensors]:
    """The images to train on, a share of config.train_split, and those to validate on, drawn by the config's seed."""
    generator = torch.Generator().manual_seed(config.seed)
    parts = random_split(range(len(dataset)), config.split_sizes(len(dataset)), generator)
    return tuple(ImageTensors(*dataset[part.indices], dataset.images.device) for part in parts)


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


# --- in batches ---


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
        batches = order.to(self.dataset.images.device).split(self.global_batch_size)
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
