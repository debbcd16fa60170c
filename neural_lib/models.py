"""The networks by name."""

import torch
from torch import nn

from neural_lib.lenet import LeNet

ARCHS = {"lenet": LeNet}


def build_model(arch: str, **arch_args) -> nn.Module:
    """Build the network `arch` with its own arguments, its weights laid out channels-last.

    Every network maps images (N, C, H, W) to log-probabilities (N, classes). channels_last is a memory layout alone: it
    changes no value of the state_dict, and on the CPU the convolutions take less time in it.
    Raises KeyError for an unknown name, TypeError or ValueError for arguments that the network does not take.
    """
    return ARCHS[arch](**arch_args).to(memory_format=torch.channels_last)
