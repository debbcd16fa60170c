"""The seeded train/validation split and the DataLoaders over images held in memory."""

from typing import NamedTuple

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, random_split

from neural_lib.config import TrainConfig


class Normalisation(NamedTuple):
    """Per-channel mean and standard deviation of pixels scaled to 0..1; what a network's input is made with."""

    mean: tuple[float, ...]
    std: tuple[float, ...]

    def __call__(self, images: Tensor) -> Tensor:
        """uint8 images (N, C, H, W) -> float32 of the same shape: (pixel / 255 - mean) / std."""
        mean = torch.tensor(self.mean, device=images.device).view(-1, 1, 1)  # (C,) -> (C, 1, 1)
        std = torch.tensor(self.std, device=images.device).view(-1, 1, 1)
        # one division and one addition a pixel; folding 255 into them keeps the pass over memory short
        return (images.float() - mean * 255).div_(std * 255).contiguous(memory_format=torch.channels_last)


class ImageTensors(Dataset):
    """Images (N, C, H, W), uint8, and labels (N,), int64, in the memory of one device; items are normalised.

    A torch DataLoader fetches a whole batch through __getitems__: one gather instead of N decodings.
    """

    def __init__(self, images: Tensor, labels: Tensor, normalisation: Normalisation) -> None:
        self.images, self.labels, self.normalisation = images, labels, normalisation

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        images, labels = self.__getitems__([index])
        return images[0], labels[0]

    def __getitems__(self, indices: list[int]) -> tuple[Tensor, Tensor]:
        chosen = torch.tensor(indices, device=self.images.device)
        return self.normalisation(self.images[chosen]), self.labels[chosen]


def split(dataset: Dataset, config: TrainConfig) -> tuple[Dataset, Dataset]:
    """The part to train on and the part to validate on, drawn from the config's seed as the tutorial draws them."""
    return tuple(random_split(dataset, config.split_sizes(len(dataset)), torch.Generator().manual_seed(config.seed)))


def make_loader(dataset: Dataset, batch_size: int, shuffle_seed: int | None = None) -> DataLoader:
    """A DataLoader of whole batches (the last may be shorter), in a new seeded order each epoch where a seed is given.

    The order is drawn on the CPU from a generator of its own: the same on every device, untouched by evaluation.
    """
    # without a generator of its own, starting to iterate would draw from torch's default one
    generator = torch.Generator().manual_seed(shuffle_seed or 0)
    shuffle = shuffle_seed is not None
    return DataLoader(dataset, batch_size, shuffle=shuffle, generator=generator, collate_fn=_as_fetched)


def _as_fetched(batch: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    return batch
