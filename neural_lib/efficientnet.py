"""EfficientNet-Lite0, for photos: the network of Tan and Le 2019, arXiv:1905.11946, with the changes of the Lite ones.

The Lite networks (https://github.com/tensorflow/tpu/tree/master/models/official/efficientnet/lite) have no
squeeze-and-excitation and ReLU6 instead of Swish, and scale neither stem nor head.
"""

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from neural_lib.config import PHOTO_SIZE

STEM, HEAD = 32, 1280  # filters


class Stage(NamedTuple):
    """A row of the paper's table 1, with the blocks of section 3.2 (MBConv: an inverted bottleneck)."""

    expansion: int  # filters of a block's depthwise convolution per input channel
    kernel: int  # height and width of that convolution, pixels
    stride: int  # of the first block; the others have 1
    filters: int  # output channels
    blocks: int


STAGES = (  # resolution, at 224 pixels
    Stage(1, 3, 1, 16, 1),  # 112
    Stage(6, 3, 2, 24, 2),  # 56
    Stage(6, 5, 2, 40, 2),  # 28
    Stage(6, 3, 2, 80, 3),  # 14
    Stage(6, 5, 1, 112, 3),  # 14
    Stage(6, 5, 2, 192, 4),  # 7
    Stage(6, 3, 1, 320, 1),  # 7
)


class EfficientNetLite0(nn.Module):
    """EfficientNet-Lite0: 4,652,008 parameters for 3 channels and 1,000 classes.

    numChannels, classes, dropout (before the linear layer): see LeNet. image_size is only checked: the mean of each
    feature over the whole image is taken. With the same weights its outputs equal those of timm 1.0's
    tf_efficientnet_lite0: the greatest difference seen is 0.0, at 64, 97, 130, 224 and 225 pixels in float32.
    Raises ValueError for images under 64 pixels.
    """

    def __init__(self, numChannels: int, classes: int, image_size: int = 224, dropout: float = 0.0) -> None:
        super().__init__()
        if image_size < PHOTO_SIZE:
            raise ValueError(f"EfficientNetLite0 needs images of at least {PHOTO_SIZE} pixels, not {image_size}")
        self.stem = _convolution(numChannels, STEM, kernel=3, stride=2)
        blocks, channels = [], STEM
        for expansion, kernel, stride, filters, count in STAGES:
            for number in range(count):
                blocks.append(Block(channels, filters, expansion, kernel, stride if number == 0 else 1))
                channels = filters
        self.blocks = nn.Sequential(*blocks)
        self.head = _convolution(channels, HEAD, kernel=1)
        self.dropout = nn.Dropout(dropout)
        self.fc = nn.Linear(HEAD, classes)
        self.logSoftmax = nn.LogSoftmax(dim=1)

    def forward(self, x: Tensor) -> Tensor:
        """Log-probabilities (N, classes) of images (N, numChannels, H, W); shapes below for 224x224."""
        x = self.stem(x)  # (N, C, 224, 224) -> (N, 32, 112, 112)
        x = self.blocks(x)  # (N, 32, 112, 112) -> (N, 320, 7, 7)
        x = self.head(x).mean(dim=(2, 3))  # (N, 320, 7, 7) -> (N, 1280)
        x = self.fc(self.dropout(x))  # (N, 1280) -> (N, classes)
        return self.logSoftmax(x.float())  # float32 even if the layers compute in bfloat16


class Block(nn.Sequential):
    """An inverted bottleneck (Sandler et al. 2018, arXiv:1801.04381): expand, filter each channel apart, project.

    If the output has the input's shape, the input is added to it.
    """

    def __init__(self, inputs: int, filters: int, expansion: int, kernel: int, stride: int) -> None:
        expanded = inputs * expansion
        expand = [_convolution(inputs, expanded, kernel=1)] if expansion > 1 else []
        depthwise = _convolution(expanded, expanded, kernel, stride, groups=expanded)
        project = _convolution(expanded, filters, kernel=1)[:2]  # a bottleneck has no ReLU6
        super().__init__(*expand, depthwise, project)
        self.is_residual = stride == 1 and inputs == filters

    def forward(self, x: Tensor) -> Tensor:
        """Features (N, inputs, H, W) -> (N, filters, H / stride, W / stride), rounded up."""
        return x + super().forward(x) if self.is_residual else super().forward(x)


def _convolution(inputs: int, filters: int, kernel: int, stride: int = 1, groups: int = 1) -> nn.Sequential:
    # Epsilon and momentum of the batch normalisation are those of TensorFlow's network, from which the weights come.
    return nn.Sequential(
        SameConv2d(inputs, filters, kernel, stride, padding=kernel // 2, groups=groups, bias=False),
        nn.BatchNorm2d(filters, eps=1e-3, momentum=0.01),
        nn.ReLU6(inplace=True),
    )


class SameConv2d(nn.Conv2d):
    """A convolution with TensorFlow's padding "same": at stride 2, an odd number of zeros has one more at the end.

    https://www.tensorflow.org/api_docs/python/tf/nn#notes_on_padding_2
    On the CPU depthwise ones compute in float32 while training, because the gradients of their weights take several
    times as long in bfloat16 (tests/README.md).
    """

    def forward(self, x: Tensor) -> Tensor:
        """Features (N, C, H, W) -> (N, filters, H / stride, W / stride), rounded up."""
        if self.stride[0] == 2:
            height, width = x.shape[2:]
            x = functional.pad(x, (*self._zeros(width), *self._zeros(height)))  # left, right, top, bottom
        if self.groups > 1 and self.training and x.device.type == "cpu":
            with torch.autocast("cpu", enabled=False):
                return self._convolve(x.float())
        return self._convolve(x)

    def _convolve(self, x: Tensor) -> Tensor:
        padding = 0 if self.stride[0] == 2 else self.padding
        return functional.conv2d(x, self.weight, self.bias, self.stride, padding, groups=self.groups)

    def _zeros(self, length: int) -> tuple[int, int]:
        # The zeros before and behind a row of `length` pixels that make length / 2 outputs of it, rounded up.
        zeros = self.kernel_size[0] - 2 + length % 2
        return zeros // 2, zeros - zeros // 2
