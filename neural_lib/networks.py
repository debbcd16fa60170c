"""The networks besides LeNet, and all of them by name."""

import contextlib
import threading
from collections.abc import Callable, Iterable, Iterator
from importlib import import_module

import torch
from torch import Tensor, nn

from neural_lib.config import ARCHS, TORCHVISION_ARCHS
from neural_lib.system.errors import UserError


def build_network(arch: str, **arch_args) -> nn.Module:
    """Build the network named `arch` in config.ARCHS or TORCHVISION_ARCHS, its weights laid out channels-last.

    Every network maps images (N, C, H, W) to log-probabilities (N, classes). channels_last is only a memory layout: it
    changes no value of the state_dict, and convolutions on the CPU are faster in it.
    Raises KeyError for an unknown name, TypeError for arguments that the network does not take, and UserError for
    values that the network refuses, such as an image size that is too small.
    """
    if arch in TORCHVISION_ARCHS:
        module, name, arch_args = "neural_lib.torchvision_networks", "TorchvisionNetwork", {"name": arch, **arch_args}
    else:
        module, name = ARCHS[arch]
    network = getattr(import_module(module), name)
    try:
        return network(**arch_args).to(memory_format=torch.channels_last)
    except ValueError as error:
        raise UserError(f"--arch {arch}: {error}") from None


def last_layer_of(model: nn.Module) -> nn.Linear:
    """The network's last linear layer, which gives the logits."""
    *_, layer = (module for module in model.modules() if isinstance(module, nn.Linear))
    return layer


@contextlib.contextmanager
def forward_hooks(layers: Iterable[nn.Module], hook: Callable[[nn.Module, tuple, Tensor], object]) -> Iterator[None]:
    """A block in which `hook` is called after each of the layers, with the layer, its inputs and its output.

    What it returns replaces the output, unless that is None. Only this thread's passes count, because another thread
    may run the same network at the same time.
    """
    thread = threading.get_ident()

    def call(layer: nn.Module, inputs: tuple, output: Tensor) -> object:
        return hook(layer, inputs, output) if threading.get_ident() == thread else None

    handles = [each.register_forward_hook(call) for each in layers]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


class LeNetSlim(nn.Module):
    """Convolutions of 6 and 12 filters, three linear layers: 32,998 parameters for 1x28x28 and 10 classes.

    numChannels, classes, image_size, dropout: see LeNet. In the structured experiment that it comes from, as RunBuilder
    does, the network has no dropout and returns logits. Here it returns log-probabilities, so that one loss fits all
    networks. Raises ValueError for images under 16 pixels: nothing of them would remain after the second pooling.
    """

    def __init__(self, numChannels: int, classes: int, image_size: int = 28, dropout: float = 0.0) -> None:
        super().__init__()
        side = ((image_size - 4) // 2 - 4) // 2  # 28 -> conv 24 -> pool 12 -> conv 8 -> pool 4
        if side < 1:
            raise ValueError(f"LeNetSlim needs images of at least 16 pixels, not {image_size}")

        self.conv1 = nn.Conv2d(numChannels, 6, kernel_size=5)
        self.conv2 = nn.Conv2d(6, 12, kernel_size=5)
        self.relu = nn.ReLU()
        self.maxpool = nn.MaxPool2d(kernel_size=2, stride=2)

        self.dropout = nn.Dropout(dropout)
        self.fc1 = nn.Linear(12 * side * side, 120)
        self.fc2 = nn.Linear(120, 60)
        self.out = nn.Linear(60, classes)
        self.logSoftmax = nn.LogSoftmax(dim=1)

    def forward(self, x: Tensor) -> Tensor:
        """Log-probabilities (N, classes) of images (N, numChannels, image_size, image_size); shapes below for 28."""
        # Pooling before ReLU gives the same values, and ReLU computes only a quarter of the pixels.
        x = self.relu(self.maxpool(self.conv1(x)))  # (N, C, 28, 28) -> (N, 6, 12, 12)
        x = self.relu(self.maxpool(self.conv2(x)))  # (N, 6, 12, 12) -> (N, 12, 4, 4)
        x = torch.flatten(x, 1)  # (N, 12, 4, 4) -> (N, 192)
        x = self.relu(self.fc1(self.dropout(x)))  # (N, 192) -> (N, 120)
        x = self.relu(self.fc2(self.dropout(x)))  # (N, 120) -> (N, 60)
        x = self.out(self.dropout(x))  # (N, 60) -> (N, classes)
        return self.logSoftmax(x.float())  # float32 even if the layers compute in bfloat16


class VGGSmall(nn.Module):
    """Pairs of 3x3 convolutions with width, 2 width and 4 width filters: 162,562 parameters for 1 channel, width 24.

    After Simonyan and Zisserman 2015 (arXiv:1409.1556): each convolution with batch normalisation (Ioffe and Szegedy
    2015, arXiv:1502.03167) and ReLU, 2x2 max-pooling between the pairs; then the maximum of each feature over the whole
    image and one linear layer. numChannels, classes, dropout: see LeNet. image_size is only checked.
    Raises ValueError for images under 4 pixels: nothing of them would remain after two poolings.
    """

    def __init__(
        self, numChannels: int, classes: int, image_size: int = 28, dropout: float = 0.0, width: int = 24
    ) -> None:
        super().__init__()
        if image_size < 4:
            raise ValueError(f"VGGSmall needs images of at least 4 pixels, not {image_size}")
        self.pair1 = _pair(numChannels, width)
        self.pair2 = _pair(width, 2 * width)
        self.pair3 = _pair(2 * width, 4 * width)
        self.maxpool = nn.MaxPool2d(kernel_size=2)
        self.relu = nn.ReLU()
        self.dropout = nn.Dropout(dropout)
        self.fc = nn.Linear(4 * width, classes)
        self.logSoftmax = nn.LogSoftmax(dim=1)

    def forward(self, x: Tensor) -> Tensor:
        """Log-probabilities (N, classes) of images (N, numChannels, H, W); shapes below for 28x28 and width 24."""
        # A pair ends before its ReLU: taking the maximum first gives the same values and leaves ReLU fewer pixels.
        x = self.relu(self.maxpool(self.pair1(x)))  # (N, C, 28, 28) -> (N, 24, 14, 14)
        x = self.relu(self.maxpool(self.pair2(x)))  # (N, 24, 14, 14) -> (N, 48, 7, 7)
        x = self.relu(self.pair3(x).amax(dim=(2, 3)))  # (N, 48, 7, 7) -> (N, 96)
        x = self.fc(self.dropout(x))  # (N, 96) -> (N, classes)
        return self.logSoftmax(x.float())  # float32 even if the layers compute in bfloat16


def _pair(channels: int, filters: int) -> nn.Sequential:
    # The convolutions have no bias because the batch normalisation after them would subtract it.
    return nn.Sequential(
        nn.Conv2d(channels, filters, kernel_size=3, padding=1, bias=False),
        nn.BatchNorm2d(filters),
        nn.ReLU(),
        nn.Conv2d(filters, filters, kernel_size=3, padding=1, bias=False),
        nn.BatchNorm2d(filters),
    )
