"""The seeded train/validation split and the DataLoaders over images held in memory."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, random_split

from neural_lib.config import TrainConfig


class Normalisation(nn.Module):
    """(pixel / 255 - mean) / std, the input that a network is trained on; mean and std per channel, of pixels 0..1."""

    def __init__(self, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        # times 255, so that a pixel takes one subtraction and one division; (C,) -> (C, 1, 1)
        self.register_buffer("mean", torch.tensor(mean).view(-1, 1, 1) * 255)
        self.register_buffer("std", torch.tensor(std).view(-1, 1, 1) * 255)

    def forward(self, images: Tensor) -> Tensor:
        """uint8 images (N, C, H, W) -> float32 of the same shape, channels-last."""
        return (images.float() - self.mean).div_(self.std).contiguous(memory_format=torch.channels_last)


class ImageTensors(Dataset):
    """Images (N, C, H, W), uint8, and labels (N,), int64, in the memory of `device`; items are normalised.

    A torch DataLoader fetches a whole batch through __getitems__: one gather instead of N decodings.
    """

    def __init__(
        self, images: Tensor, labels: Tensor, normalisation: Normalisation, device: torch.device | str = "cpu"
    ) -> None:
        self.images, self.labels = images.to(device), labels.to(device)
        self.normalisation = normalisation.to(device)

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
