"""The seeded train/validation split and the DataLoaders over images held in memory."""

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, Sampler, random_split

from neural_lib.augment import RandomDistortion
from neural_lib.config import TrainConfig, derived_seed
from neural_lib.distributed import PADDING, is_padding, shard, world_size

EVAL_BATCH_SIZE = 250  # images in each rank; scoring needs no gradients, so more fit at once, with fewer calls an image


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
    """The part to train on and the part to validate on, drawn from the config's seed as the tutorial draws them."""
    generator = torch.Generator().manual_seed(config.seed)
    parts = random_split(range(len(dataset)), config.split_sizes(len(dataset)), generator)
    return tuple(ImageTensors(*dataset[part.indices], dataset.images.device) for part in parts)


class BatchIndices(Sampler[Tensor]):
    """This rank's indices of each batch, in order or, given a seed, in an order that follows from seed and epoch.

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

    def prepared(shard_of_batch: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        images, labels = shard_of_batch
        size = batches.size(batches.step)
        if distortion:
            images = distortion(images, batches.epoch, batches.step, size)
        return normalise(images), torch.full_like(labels, PADDING) if is_padding(size) else labels

    # a generator of its own: starting to iterate would draw from torch's default one
    return DataLoader(
        dataset, batch_size=None, sampler=batches, collate_fn=prepared, generator=torch.Generator().manual_seed(0)
    )


def evaluation_loader(dataset: ImageTensors, normalise: Normalisation) -> DataLoader:
    """A DataLoader of images in their order, in batches that suit evaluation, for all ranks together."""
    return make_loader(dataset, EVAL_BATCH_SIZE * world_size(), normalise)
