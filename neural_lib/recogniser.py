"""A trained network, and what it says of images."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from neural_lib.checkpoint import Checkpoint
from neural_lib.convert import convert
from neural_lib.loaders import Normalisation


class Recogniser:
    """The network of a checkpoint, on a device, taking images as they are in a data set.

    Raises UserError where the checkpoint's parts don't fit together.
    """

    def __init__(self, saved: Checkpoint, device: torch.device) -> None:
        self.saved, self.device = saved, device
        self.model = saved.build_model().to(device)
        self.normalise = Normalisation(saved.mean, saved.std).to(device)

    def inputs(self, images: Tensor) -> Tensor:
        """Images (N, C, H, W), uint8 -> what the network is given, float32, on its device."""
        return self.normalise(images.to(self.device))

    @torch.inference_mode()
    def probabilities(self, images: Tensor) -> Tensor:
        """Images (N, C, H, W), uint8 -> the probability of each class, (N, classes), on the CPU."""
        return self.model(self.inputs(images)).exp().cpu()

    def images(self, prepared: Sequence[np.ndarray]) -> Tensor:
        """Images of a data set, each uint8 (C, H, W) -> (N, C, H, W), with the network's own channels and size."""
        return convert(torch.from_numpy(np.stack(prepared)), len(self.saved.mean), self.saved.image_size)[0]
