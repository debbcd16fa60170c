"""torchvision's ResNet-18, changed for small images; He et al. 2016, Deep residual learning, arXiv:1512.03385.

A module of its own: importing torchvision takes another second.
"""

from torch import Tensor, nn
from torchvision.models.resnet import BasicBlock, ResNet


class ResNet18(ResNet):
    """ResNet-18 with a 3x3 first convolution of stride 1 and no first max-pooling: 11,172,810 parameters for 1 channel.

    That change is the usual one for images this small (section 4.2 of the paper, for CIFAR-10): the network for photos
    would make 7x7 of 28x28 pixels before its first block. numChannels, classes, dropout (before the linear layer): as
    LeNet takes them. image_size changes nothing: the last pooling is over whatever is left of the image.
    """

    def __init__(self, numChannels: int, classes: int, image_size: int = 28, dropout: float = 0.0) -> None:
        super().__init__(BasicBlock, [2, 2, 2, 2], num_classes=classes)
        self.conv1 = nn.Conv2d(numChannels, 64, kernel_size=3, padding=1, bias=False)
        nn.init.kaiming_normal_(self.conv1.weight, mode="fan_out", nonlinearity="relu")  # as torchvision does
        self.maxpool = nn.Identity()
        self.avgpool = nn.Sequential(self.avgpool, nn.Dropout(dropout))
        self.logSoftmax = nn.LogSoftmax(dim=1)

    def forward(self, x: Tensor) -> Tensor:
        """Log-probabilities (N, classes) of images (N, numChannels, H, W)."""
        return self.logSoftmax(super().forward(x).float())  # float32 also where the layers compute in bfloat16
