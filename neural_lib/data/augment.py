"""Random distortions of a whole batch of images at once."""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from neural_lib.config import TrainConfig, derived_seed
from neural_lib.system.distributed import shard

CONTROL_POINTS = 5  # a side, of the elastic field: 7 pixels apart on 28, so that strokes bend and don't fray


class RandomDistortion(nn.Module):
    """Flips each image with probability 0.5, then rotates, scales, shears, shifts and bends it by random amounts.

    Last it changes the thickness of strokes, and the brightness.

    The amounts are uniform from minus to plus the config's `rotation` (degrees), `scale` (share; height and width each
    for itself), `shear` (horizontal pixels per vertical one) and `shift` (pixels; each way for itself), the first three
    about the centre. `elastic` is the standard deviation, in pixels, of displacements drawn at coarse control points
    and interpolated smoothly between them, as Ronneberger et al. 2015 (arXiv:1505.04597, section 3.1) do. What lies
    outside of an image is 0. `thickness` blends in, by that share, the brightest of the pixels around each, or the
    darkest: light strokes become so many pixels wider or narrower on each side. `gamma` raises brightness, 0 to 1, to a
    power from exp(-gamma) to exp(gamma).

    The amounts of a batch depend only on the config's seed, the epoch and the step.
    """

    def __init__(self, config: TrainConfig, image_size: int, device: torch.device | str = "cpu") -> None:
        super().__init__()
        self.rotation, self.scale, self.shear = math.radians(config.rotation), config.scale, config.shear
        self.shift, self.elastic = (pixels * 2 / image_size for pixels in (config.shift, config.elastic))  # half images
        self.flip, self.thickness, self.gamma = config.flip, config.thickness, config.gamma
        self.resamples = any((self.rotation, self.scale, self.shear, self.shift, self.elastic))
        self.seed, self.generator = config.seed, torch.Generator(device)
        # what each control point adds to each pixel: interpolation is linear, and one product is its fastest form
        points = torch.eye(CONTROL_POINTS**2).view(-1, 1, CONTROL_POINTS, CONTROL_POINTS)
        weights = functional.interpolate(points, (image_size, image_size), mode="bicubic", align_corners=True)
        self.register_buffer("weights", weights.flatten(1).to(device))  # (25, 1, H, W) -> (25, H * W)

    def forward(self, images: Tensor, epoch: int = 1, step: int = 0, global_batch_size: int | None = None) -> Tensor:
        """Images (N, C, H, W), 0 to 255 -> float32 images of the same shape and scale.

        global_batch_size: images in the whole batch, of which these are this rank's shard; N where not given. Every
        rank draws the amounts of all of them.
        """
        self.generator.manual_seed(derived_seed(self.seed, "distortion", epoch, step))
        count = global_batch_size or len(images)
        if self.flip:
            heads = shard(self._uniform(count, 1)).view(-1, 1, 1, 1) < 0.5
            images = torch.where(heads, images.flip(3), images)
        images = self._resampled(images.float(), count) if self.resamples else images.float()
        if self.thickness:
            amount = shard(self._uniform(count, 1)).view(-1, 1, 1, 1) * 2 - 1  # -1..1, (N, 1, 1, 1)
            signed = images * amount.sign()  # whose maximum is the darkest where strokes become thinner
            images = torch.addcmul(images, self.thickness * amount, _brightest_around(signed) - signed)
        if self.gamma:
            power = (self.gamma * (shard(self._uniform(count, 1)).view(-1, 1, 1, 1) * 2 - 1)).exp()
            images = 255 * (images / 255).clamp(0, 1) ** power
        return images

    def _resampled(self, images: Tensor, count: int) -> Tensor:
        grid = functional.affine_grid(self._affine(count), list(images.shape), align_corners=False)  # (N, H, W, 2)
        if self.elastic:
            points = 2 * len(self.weights)
            noise = shard(torch.randn(count, points, device=self.generator.device, generator=self.generator))  # (N, 50)
            bend = noise.reshape(len(images) * 2, -1) @ self.weights  # (2 N, 25) -> (2 N, H * W)
            grid += self.elastic * bend.view(len(images), 2, *images.shape[2:]).permute(0, 2, 3, 1)  # -> (N, H, W, 2)
        return functional.grid_sample(images, grid, padding_mode="zeros", align_corners=False)

    def _uniform(self, count: int, amounts: int) -> Tensor:
        return torch.rand(count, amounts, device=self.generator.device, generator=self.generator)  # 0..1

    def _affine(self, count: int) -> Tensor:
        # (N, 2, 3): takes a point of the result to the point of the image that is seen there
        random = shard(self._uniform(count, 6)) * 2 - 1  # -1..1
        angle, scale_x, scale_y, shear, shift_x, shift_y = random.unbind(1)
        cos, sin = (angle * self.rotation).cos(), (angle * self.rotation).sin()
        scale_x, scale_y, shear = 1 + scale_x * self.scale, 1 + scale_y * self.scale, shear * self.shear
        rows = [cos / scale_x, (cos * shear - sin) / scale_y, sin / scale_x, (sin * shear + cos) / scale_y]
        linear = torch.stack(rows, dim=1).view(-1, 2, 2)  # rotation @ shear @ scaling
        shift = torch.stack([shift_x, shift_y], dim=1).unsqueeze(2) * self.shift  # (N, 2, 1), in the result
        return torch.cat([linear, linear @ shift], dim=2)


def _brightest_around(images: Tensor) -> Tensor:
    # the maximum of 3x3 pixels around each (N, C, H, W), in rows, then in columns: a fifth of max_pool2d's time on CPUs
    x = functional.pad(images, (1, 1, 1, 1), value=-math.inf)  # (N, C, H, W) -> (N, C, H + 2, W + 2)
    x = torch.maximum(torch.maximum(x[..., :-2], x[..., 1:-1]), x[..., 2:])  # -> (N, C, H + 2, W)
    return torch.maximum(torch.maximum(x[..., :-2, :], x[..., 1:-1, :]), x[..., 2:, :])  # -> (N, C, H, W)
