"""LeNet as the tutorial builds it, after LeCun et al. 1998, Gradient-based learning applied to document recognition."""

import torch
from torch import Tensor, nn


class LeNet(nn.Module):
    """Two 5x5 convolutions with 2x2 max-pooling, then two linear layers: 431,080 parameters for 1x28x28 and 10 classes.

    numChannels: channels of an image. classes: number of classes. image_size: height and width of an image, pixels.
    dropout: probability that an input of a linear layer is dropped in training; the tutorial's network has no dropout.
    Raises ValueError for images under 16 pixels: nothing of them would remain after the second pooling.
    """

    def __init__(self, numChannels: int, classes: int, image_size: int = 28, dropout: float = 0.0) -> None:
        super().__init__()
        side = ((image_size - 4) // 2 - 4) // 2  # 28 -> conv 24 -> pool 12 -> conv 8 -> pool 4
        if side < 1:
            raise ValueError(f"LeNet needs images of at least 16 pixels, not {image_size}")

        self.conv1 = nn.Conv2d(numChannels, 20, kernel_size=5)
        self.relu1 = nn.ReLU()
        self.maxpool1 = nn.MaxPool2d(kernel_size=2, stride=2)

        self.conv2 = nn.Conv2d(20, 50, kernel_size=5)
        self.relu2 = nn.ReLU()
        self.maxpool2 = nn.MaxPool2d(kernel_size=2, stride=2)

        self.dropout = nn.Dropout(dropout)
        self.fc1 = nn.Linear(50 * side * side, 500)
        self.relu3 = nn.ReLU()
        self.fc2 = nn.Linear(500, classes)
        self.logSoftmax = nn.LogSoftmax(dim=1)

    def forward(self, x: Tensor) -> Tensor:
        """Log-probabilities (N, classes) of images (N, numChannels, image_size, image_size); shapes below for 28."""
        # Pooling before ReLU gives the same values, and ReLU computes only a quarter of the pixels.
        x = self.relu1(self.maxpool1(self.conv1(x)))  # (N, C, 28, 28) -> (N, 20, 12, 12)
        x = self.relu2(self.maxpool2(self.conv2(x)))  # (N, 20, 12, 12) -> (N, 50, 4, 4)
        x = torch.flatten(x, 1)  # (N, 50, 4, 4) -> (N, 800)
        x = self.relu3(self.fc1(self.dropout(x)))  # (N, 800) -> (N, 500)
        x = self.fc2(self.dropout(x))  # (N, 500) -> (N, classes)
        return self.logSoftmax(x.float())  # float32 even if the layers compute in bfloat16
