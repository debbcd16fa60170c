"""The seeded train/validation split and the DataLoaders over images held in memory."""

from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, Sampler, random_split

from neural_lib.config import TrainConfig
from neural_lib.processes import ALONE, Processes

EVAL_BATCH_SIZE = 250  # images; scoring needs no gradients, so more fit at once, with fewer calls for each image


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
    """The indices of each batch (batch_size,), in order or, given a generator, in a new random order each epoch.

    An epoch's order is drawn on the CPU, the same for every device, and moved to the images in one piece: a transfer
    for each batch would make the CPU wait for the device each time.

    processes: where each of several has a part of every batch; all draw the same order.
    skip: batches that the next epoch, and no other, leaves out at its beginning: they have been learned already.
    """

    def __init__(
        self,
        dataset: ImageTensors,
        batch_size: int,
        generator: torch.Generator | None = None,
        processes: Processes = ALONE,
    ) -> None:
        self.dataset, self.batch_size, self.generator = dataset, batch_size, generator
        self.processes, self.skip = processes, 0

    def __len__(self) -> int:
        return -(-len(self.dataset) // self.batch_size)

    def __iter__(self) -> Iterator[Tensor]:
        count = len(self.dataset)
        order = torch.arange(count) if self.generator is None else torch.randperm(count, generator=self.generator)
        skip, self.skip = self.skip, 0
        for batch in order.to(self.dataset.images.device).split(self.batch_size)[skip:]:
            yield self.processes.part(batch)


class Checked:
    """A loader that calls `check` before each batch, so that what check raises ends the work between two steps."""

    def __init__(self, loader: DataLoader, check: Callable[[], None]) -> None:
        self.loader, self.check = loader, check
        self.dataset = loader.dataset

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        self.check()
        for batch in self.loader:
            yield batch
            self.check()  # before the next one is made, which draws from the generators

    def __len__(self) -> int:
        return len(self.loader)


def make_loader(
    dataset: ImageTensors,
    batch_size: int,
    transform: Callable[[Tensor], Tensor],
    shuffle_seed: int | None = None,
    processes: Processes = ALONE,
) -> DataLoader:
    """A DataLoader of whole batches (the last may be shorter), in a new seeded order each epoch where a seed is given.

    transform: uint8 images (N, C, H, W) -> the network's input; it is given a whole batch.
    processes: where this is the loader of one of several, which gives that one's part of each batch.
    """
    # a generator of its own even where nothing is shuffled: starting to iterate would draw from torch's default one
    generator = torch.Generator().manual_seed(shuffle_seed or 0)
    indices = BatchIndices(dataset, batch_size, None if shuffle_seed is None else generator, processes)

    def transformed(batch: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        images, labels = batch
        return transform(images), labels

    return DataLoader(dataset, batch_size=None, sampler=indices, collate_fn=transformed, generator=generator)
