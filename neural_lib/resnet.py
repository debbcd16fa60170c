"""torchvision's ResNet-18, changed for small images; He et al. 2016, Deep residual learning, arXiv:1512.03385.

This is a separate module because importing torchvision takes a second.
"""

from torch import Tensor, nn
from torchvision.models.resnet import BasicBlock, ResNet


class ResNet18(ResNet):
    """ResNet-18 with a 3x3 first convolution of stride 1 and no first max-pooling: 11,172,810 parameters for 1 channel.

    The paper makes the same change for CIFAR-10 (section 4.2): the network for photos would reduce 28x28 pixels to 7x7
    before its first block. numChannels, classes, dropout (before the linear layer): see LeNet. image_size is ignored,
    because the last pooling averages a feature map of any size.
    """

    def __init__(self, numChannels: int, classes: int, image_size: int = 28, dropout: float = 0.0) -> None:
        super().__init__(BasicBlock, [2, 2, 2, 2], num_classes=classes)
        self.conv1 = nn.Conv2d(numChannels, 64, kernel_size=3, padding=1, bias=False)
        nn.init.kaiming_normal_(self.conv1.weight, mode="fan_out", nonlinearity="relu")  # torchvision's initialisation
        self.maxpool = nn.Identity()
        self.avgpool = nn.Sequential(self.avgpool, nn.Dropout(dropout))
        self.logSoftmax = nn.LogSoftmax(dim=1)

    def forward(self, x: Tensor) -> Tensor:
        """Log-probabilities (N, classes) of images (N, numChannels, H, W)."""
        return self.logSoftmax(super().forward(x).float())  # float32 even if the layers compute in bfloat16
