"""The networks by name. torch is imported where one is built, so that the names can be had without it."""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import nn

ARCHS = {  # name: module of neural_lib, class
    "lenet": ("lenet", "LeNet"),
    "lenet-slim": ("lenet_slim", "LeNetSlim"),
    "vgg-small": ("vgg_small", "VGGSmall"),
    "resnet18": ("resnet", "ResNet18"),
}
HAVE_WIDTH = ("vgg-small",)  # those that take an argument width


def build_model(arch: str, **arch_args) -> "nn.Module":
    """Build the network `arch` with its own arguments, its weights laid out channels-last.

    Every network maps images (N, C, H, W) to log-probabilities (N, classes). channels_last is a memory layout alone: it
    changes no value of the state_dict, and on the CPU the convolutions take less time in it.
    Raises KeyError for an unknown name, TypeError or ValueError for arguments that the network does not take.
    """
    import torch

    module, name = ARCHS[arch]
    network = getattr(import_module(f"neural_lib.{module}"), name)
    return network(**arch_args).to(memory_format=torch.channels_last)
