"""Batch normalisation over the parts of a batch that several processes have, on the CPU, where torch has none."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

InPlaceSum = Callable[[Tensor], Tensor]


class SumOverProcesses(torch.autograd.Function):
    """The sum of the processes' tensors; each loss depends on all of them, and so the gradients are summed too."""

    @staticmethod
    def forward(ctx, tensor: Tensor, add_up: InPlaceSum) -> Tensor:
        ctx.add_up = add_up
        return add_up(tensor.clone())

    @staticmethod
    def backward(ctx, gradient: Tensor) -> tuple[Tensor, None]:
        return ctx.add_up(gradient.clone()), None


class SharedBatchNorm2d(nn.BatchNorm2d):
    """nn.BatchNorm2d whose mean and variance are those of the whole batch, whichever parts of it the processes have.

    After torch.nn.SyncBatchNorm, which is for GPUs alone: sums are exchanged, and so are their gradients. A part may
    be of any size, 0 too. add_up: sums a tensor over the processes, in place.
    """

    def __init__(self, like: nn.BatchNorm2d, add_up: InPlaceSum) -> None:
        super().__init__(like.num_features, like.eps, like.momentum)
        self.weight, self.bias, self.add_up = like.weight, like.bias, add_up
        for name, value in like.named_buffers():
            setattr(self, name, value)
        self.train(like.training)

    def forward(self, images: Tensor) -> Tensor:
        """(N, C, H, W), float32 or bfloat16 -> the same shape and type."""
        if not self.training:
            return super().forward(images)
        x, count = images.float(), images.numel() // self.num_features
        if count:
            variance, mean = torch.var_mean(x, dim=(0, 2, 3), correction=0)  # (N, C, H, W) -> (C,)
        else:
            variance = mean = x.sum(dim=(0, 2, 3))
        # float64: a variance is taken as the difference of two sums
        variance, mean = variance.double(), mean.double()
        parts = [count * mean, count * (variance + mean.square()), torch.tensor([float(count)], dtype=torch.float64)]
        sums = SumOverProcesses.apply(torch.cat(parts), self.add_up)  # (2 C + 1,)
        mean, square = (sums[:-1] / sums[-1]).view(2, -1)  # -> (C,)
        variance = square - mean.square()
        self._track(mean.detach(), variance.detach(), sums[-1].item())
        scale = self.weight * (variance + self.eps).rsqrt()
        shift = self.bias - mean * scale
        scale, shift = (each.float().view(1, -1, 1, 1) for each in (scale, shift))  # (C,) -> (1, C, 1, 1)
        return torch.addcmul(shift, x, scale).to(images.dtype)

    @torch.no_grad()
    def _track(self, mean: Tensor, variance: Tensor, count: float) -> None:
        self.num_batches_tracked += 1
        self.running_mean.lerp_(mean.float(), self.momentum)
        self.running_var.lerp_((variance * count / max(count - 1, 1)).float(), self.momentum)


def share_batch_norm(model: nn.Module, add_up: InPlaceSum) -> None:
    """Put a SharedBatchNorm2d in the place of every BatchNorm2d within the model, with its parameters and buffers."""
    for module in list(model.modules()):
        for name, child in module.named_children():
            if type(child) is nn.BatchNorm2d:
                setattr(module, name, SharedBatchNorm2d(child, add_up))
