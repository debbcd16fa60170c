"""A small network in VGG's manner, for those without a GPU."""

from torch import Tensor, nn


class VGGSmall(nn.Module):
    """Pairs of 3x3 convolutions with width, 2 width and 4 width filters: 162,562 parameters for 1 channel, width 24.

    After Simonyan and Zisserman 2015 (arXiv:1409.1556): each convolution with batch normalisation (Ioffe and Szegedy
    2015, arXiv:1502.03167) and ReLU, 2x2 max-pooling between the pairs; then the maximum of each feature over the whole
    image and one linear layer. numChannels, classes, dropout: as LeNet takes them. image_size changes nothing but the
    check that 4 pixels, the least that two poolings leave something of, are there: ValueError where they are not.
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
        # a pair ends before its ReLU: the maximum first leaves ReLU a quarter of the pixels, and changes nothing
        x = self.relu(self.maxpool(self.pair1(x)))  # (N, C, 28, 28) -> (N, 24, 14, 14)
        x = self.relu(self.maxpool(self.pair2(x)))  # (N, 24, 14, 14) -> (N, 48, 7, 7)
        x = self.relu(self.pair3(x).amax(dim=(2, 3)))  # (N, 48, 7, 7) -> (N, 96)
        x = self.fc(self.dropout(x))  # (N, 96) -> (N, classes)
        return self.logSoftmax(x.float())  # float32 also where the layers compute in bfloat16


def _pair(channels: int, filters: int) -> nn.Sequential:
    # no bias: the normalisation after it would take it off again
    return nn.Sequential(
        nn.Conv2d(channels, filters, kernel_size=3, padding=1, bias=False),
        nn.BatchNorm2d(filters),
        nn.ReLU(),
        nn.Conv2d(filters, filters, kernel_size=3, padding=1, bias=False),
        nn.BatchNorm2d(filters),
    )
