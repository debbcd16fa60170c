"""The network of the structured Fashion-MNIST experiment: LeNet with fewer filters and one more linear layer."""

import torch
from torch import Tensor, nn


class LeNetSlim(nn.Module):
    """Convolutions of 6 and 12 filters, three linear layers: 32,998 parameters for 1x28x28 and 10 classes.

    numChannels, classes, image_size, dropout: as LeNet takes them; the experiment's network has no dropout. That one
    ends in logits, for cross-entropy; this one ends in their log-softmax, as LeNet does, so that one loss serves all.
    Raises ValueError for images under 16 pixels, of which the second pooling would leave nothing.
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
        # pooling before ReLU: both orders give the same maximum, this one leaves ReLU a quarter of the pixels
        x = self.relu(self.maxpool(self.conv1(x)))  # (N, C, 28, 28) -> (N, 6, 12, 12)
        x = self.relu(self.maxpool(self.conv2(x)))  # (N, 6, 12, 12) -> (N, 12, 4, 4)
        x = torch.flatten(x, 1)  # (N, 12, 4, 4) -> (N, 192)
        x = self.relu(self.fc1(self.dropout(x)))  # (N, 192) -> (N, 120)
        x = self.relu(self.fc2(self.dropout(x)))  # (N, 120) -> (N, 60)
        x = self.out(self.dropout(x))  # (N, 60) -> (N, classes)
        return self.logSoftmax(x.float())  # float32 also where the layers compute in bfloat16
