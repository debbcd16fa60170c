"""torchvision's classification networks by name, and its ResNet-18 changed for small images.

This is a separate module because importing torchvision takes a second.
"""

from torch import Tensor, nn
from torch.nn import functional
from torchvision.models import get_model
from torchvision.models.resnet import BasicBlock, ResNet

from neural_lib.config import PHOTO_SIZE, VIT_SIZE
from neural_lib.networks import last_layer_of


class ResNet18(ResNet):
    """ResNet-18 with a 3x3 first convolution of stride 1 and no first max-pooling: 11,172,810 parameters for 1 channel.

    He et al. 2016 (arXiv:1512.03385) make the same change for CIFAR-10 (section 4.2): the network for photos would
    reduce 28x28 pixels to 7x7 before its first block. numChannels, classes, dropout (before the linear layer): see
    LeNet. image_size is ignored, because the last pooling averages a feature map of any size.
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


class TorchvisionNetwork(nn.Module):
    """A classification network of torchvision (torchvision.models.get_model) that ends in a log-softmax.

    name: one of config.TORCHVISION_ARCHS. dropout: the probability of all its dropout layers; a network without any
    gets one before its last layer. numChannels other than 3: the first convolution gets that number of channels.
    Raises ValueError if the network takes no images of this size.
    """

    def __init__(
        self, numChannels: int, classes: int, image_size: int = 224, dropout: float = 0.0, *, name: str
    ) -> None:
        super().__init__()
        if name.startswith("vit_") and image_size != VIT_SIZE:
            raise ValueError(f"{name} needs images of {VIT_SIZE} pixels, not {image_size}")
        if image_size < PHOTO_SIZE:
            raise ValueError(f"{name} needs images of at least {PHOTO_SIZE} pixels, not {image_size}")
        self.network = get_model(name, weights=None, num_classes=classes)
        if numChannels != 3:
            self._take_channels(numChannels)
        dropouts = [module for module in self.network.modules() if isinstance(module, nn.Dropout)]
        for module in dropouts:
            module.p = dropout
        if dropout and not dropouts:
            last_layer_of(self.network).register_forward_pre_hook(
                lambda layer, inputs: functional.dropout(*inputs, dropout, layer.training)
            )
        self.logSoftmax = nn.LogSoftmax(dim=1)

    def _take_channels(self, numChannels: int) -> None:
        name, first = next(item for item in self.network.named_modules() if isinstance(item[1], nn.Conv2d))
        convolution = nn.Conv2d(
            numChannels, first.out_channels, first.kernel_size, first.stride, first.padding, bias=first.bias is not None
        )
        self.network.set_submodule(name, convolution)

    def forward(self, x: Tensor) -> Tensor:
        """Log-probabilities (N, classes) of images (N, numChannels, H, W)."""
        return self.logSoftmax(self.network(x).float())  # float32 even if the layers compute in bfloat16
