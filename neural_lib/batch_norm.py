"""Batch normalisation over the parts of a batch that several processes have, on the CPU, where torch has none."""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.modules.batchnorm import _BatchNorm

InPlaceSum = Callable[[Tensor], Tensor]
OVER = (0, 2, 3)  # of (N, C, H, W)


class _Normalise(torch.autograd.Function):
    """Images normalised by the mean and variance of the whole batch, with these two and how many values they are of.

    As torch.nn.SyncBatchNorm does it: the parts' sums are added up, in the backward pass those of the gradients.
    """

    @staticmethod
    def forward(ctx, images: Tensor, weight: Tensor, bias: Tensor, eps: float, add_up: InPlaceSum) -> tuple:
        x = images.float()
        own = x.numel() // len(weight)
        mean = x.sum(OVER) / max(own, 1)  # (N, C, H, W) -> (C,)
        squares = (x - _spread(mean)).square().sum(OVER).double() + own * mean.double().square()
        # float64: the variance is the difference of two sums
        sums = add_up(torch.cat([own * mean.double(), squares, torch.tensor([own], dtype=torch.float64)]))  # (2 C + 1,)
        count = sums[-1]
        mean, square = (sums[:-1] / count).view(2, -1)
        variance = (square - mean.square()).clamp(min=0).float()
        mean = mean.float()
        ctx.add_up, ctx.count = add_up, count.float()
        ctx.save_for_backward(images, weight, mean, (variance + eps).rsqrt())
        ctx.mark_non_differentiable(mean, variance, count)
        return functional.batch_norm(images, mean, variance, weight, bias, eps=eps), mean, variance, count

    @staticmethod
    def backward(ctx, gradient: Tensor, *_) -> tuple:
        images, weight, mean, inverse = ctx.saved_tensors
        dy, centred = gradient.float(), images.float() - _spread(mean)
        own = torch.stack([dy.sum(OVER), (dy * centred).sum(OVER)])  # (2, C)
        whole = ctx.add_up(own.clone()) / ctx.count
        # weight / deviation * (dy - mean of dy - centred / variance * mean of dy * centred)
        scale = weight * inverse
        through_mean, through_variance = -scale * whole[0], -scale * inverse.square() * whole[1]
        dx = torch.addcmul(_spread(through_mean), centred, _spread(through_variance)).addcmul_(dy, _spread(scale))
        return dx.to(images.dtype), own[1] * inverse, own[0], None, None


def _spread(values: Tensor) -> Tensor:
    return values.view(1, -1, 1, 1)  # (C,) -> (1, C, 1, 1)


class SharedBatchNorm2d(nn.BatchNorm2d):
    """nn.BatchNorm2d over a batch of which each process has a part, of any size, 0 too.

    like: whose parameters and buffers it takes over. add_up: sums a tensor over the processes, in place.
    """

    def __init__(self, like: nn.BatchNorm2d, add_up: InPlaceSum) -> None:
        super().__init__(like.num_features, like.eps, like.momentum)
        self.weight, self.bias, self.add_up = like.weight, like.bias, add_up
        for name, value in like.named_buffers():
            setattr(self, name, value)
        self.train(like.training)

    @torch.compiler.disable  # which can't see through the exchange
    def forward(self, images: Tensor) -> Tensor:
        """(N, C, H, W), float32 or bfloat16 -> the same shape and type."""
        if not self.training:
            return super().forward(images)
        outputs, mean, variance, count = _Normalise.apply(images, self.weight, self.bias, self.eps, self.add_up)
        self.num_batches_tracked += 1
        self.running_mean.lerp_(mean, self.momentum)
        self.running_var.lerp_(variance * (count / (count - 1).clamp(min=1)).float(), self.momentum)
        return outputs


def share_batch_norm(model: nn.Module, add_up: InPlaceSum) -> None:
    """Put a SharedBatchNorm2d in the place of every BatchNorm2d within the model, with its parameters and buffers."""
    for module in list(model.modules()):
        for name, child in module.named_children():
            if type(child) is nn.BatchNorm2d:
                setattr(module, name, SharedBatchNorm2d(child, add_up))
            elif isinstance(child, _BatchNorm) and type(child) is not SharedBatchNorm2d:
                raise TypeError(f"{type(child).__name__}: each process would have statistics of its own")
