"""Heat maps of the places of an image that speak for a class: Grad-CAM (Selvaraju et al. 2017, arXiv:1610.02391).

Grad-CAM weights each feature with the mean of its gradients over all places. Here each place is weighted with its own
gradient (HiResCAM: Draelos and Carin 2020, arXiv:2011.08891). Where a network ends in the mean over all places and a
linear layer, as EfficientNet-Lite0 and ResNets do, both give the same map. LeNet pools and rectifies the features of
its last convolution; weighted with mean gradients, most of its maps would be empty.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional

from neural_lib.data.images import eval_batch_size
from neural_lib.evaluation.calibration import outputs_of
from neural_lib.networks import forward_hooks


def heat_maps(model: nn.Module, inputs: Tensor, classes: Tensor) -> Tensor | None:
    """How much each place of normalised images (N, C, S, S) speaks for a class: classes (N,), one for each image.

    model: in evaluation mode, which ends in an nn.Linear. Returns maps (N, h, w), float32, from 0 to 1, each spread
    over the whole image: its hottest place has 1, or all have 0 if none speaks for the class. h and w are those of the
    last convolution's output, 7 for EfficientNet-Lite0 at 224 pixels; if convolutions without padding leave a border
    out, that is added with zeros, 8 + 6 for LeNet. None for a vision transformer: its only convolution is the first
    layer, and attention mixes the places after it. No gradient is left in the parameters. Several threads may call this
    at once.
    """
    if any(isinstance(each, nn.MultiheadAttention) for each in model.modules()):
        return None
    layer, border = _last_with_places(model, inputs[:1])
    size = eval_batch_size(inputs.size(-1), inputs.device)
    batches = zip(inputs.split(size), classes.split(size), strict=True)
    maps = torch.cat([_contributions(model, layer, *batch) for batch in batches]).relu()
    maps = (maps / maps.amax(dim=(1, 2), keepdim=True)).nan_to_num(0)  # 0 / 0 is NaN
    return functional.pad(maps, [border] * 4)  # LeNet: (N, 8, 8) -> (N, 14, 14)


def _last_with_places(model: nn.Module, image: Tensor) -> tuple[nn.Module, int]:
    # The last layer or block with an output of several places, and the width of the border that its output leaves out,
    # in places. An output with fewer places but the same channels is pooled: the one before, which is finer, is taken.
    last, shape = model, image.shape[1:]
    pixels = {image.size(-1): 1}  # width of an output: pixels of the image from one of its places to the next

    def look(layer: nn.Module, args: tuple, output: object) -> None:
        nonlocal last, shape
        if not isinstance(output, Tensor) or output.dim() != 4:
            return
        channels, *size = output.shape[1:]
        if max(size) == 1:
            return
        if hasattr(layer, "stride") and args[0].size(-1) in pixels:  # a convolution or pooling
            stride = layer.stride if isinstance(layer.stride, int) else layer.stride[-1]
            pixels[size[-1]] = pixels[args[0].size(-1)] * stride
        if isinstance(layer, nn.Conv2d) or channels != shape[0] or size == list(shape[1:]):
            last, shape = layer, output.shape[1:]

    with forward_hooks(model.modules(), look), torch.no_grad():
        model(image)
    width, side = shape[-1], image.size(-1)
    step = pixels.get(width, side / width)
    return last, max(0, round((side / step - width) / 2))


def _contributions(model: nn.Module, layer: nn.Module, inputs: Tensor, classes: Tensor) -> Tensor:
    # What each place of the layer's output adds to the class's logit, to first order: (N, h, w), float32.
    kept = []

    def keep(layer: nn.Module, args: tuple, output: Tensor) -> Tensor:
        kept.append(output.detach().requires_grad_())
        torch.set_grad_enabled(True)  # only behind this layer, so that the pass costs little more; no_grad ends it
        return kept[-1].clone()  # the next layer may change it in place

    with forward_hooks([layer], keep), torch.inference_mode(False), torch.no_grad():
        logits = outputs_of(model, inputs).logits.gather(1, classes[:, None])  # (N, classes) -> (N, 1)
        features = kept[-1]
        (gradients,) = torch.autograd.grad(logits.sum(), features)
    return (gradients * features.detach()).float().sum(dim=1)  # (N, C, h, w) -> (N, h, w)
