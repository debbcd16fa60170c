"""Random distortions of a whole batch of images at once."""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from neural_lib.config import TrainConfig, derived_seed
from neural_lib.system.distributed import shard

CONTROL_POINTS = 5  # per side of the elastic field; on 28 pixels they are 7 apart, so strokes bend and don't fray


class RandomDistortion(nn.Module):
    """Distorts each image by random amounts, which depend only on the config's seed, the epoch and the step.

    In this order, as TrainConfig and README.md describe them: flip; rotation, scale and shear about the centre, shift,
    and elastic displacements (Ronneberger et al. 2015, arXiv:1505.04597, section 3.1) in one resampling; thickness, by
    blending each pixel with the brightest, or the darkest, of the 3x3 pixels around it; gamma.
    Pixels from outside of an image are 0.
    """

    def __init__(self, config: TrainConfig, image_size: int, device: torch.device | str = "cpu") -> None:
        super().__init__()
        self.rotation, self.scale, self.shear = math.radians(config.rotation), config.scale, config.shear
        # affine_grid's unit of length is half an image.
        self.shift, self.elastic = (pixels * 2 / image_size for pixels in (config.shift, config.elastic))
        self.flip, self.thickness, self.gamma = config.flip, config.thickness, config.gamma
        self.resamples = any((self.rotation, self.scale, self.shear, self.shift, self.elastic))
        self.seed, self.generator = config.seed, torch.Generator(device)
        # The weight of each control point at each pixel. Interpolation is linear, so one matrix product computes it.
        points = torch.eye(CONTROL_POINTS**2).view(-1, 1, CONTROL_POINTS, CONTROL_POINTS)
        weights = functional.interpolate(points, (image_size, image_size), mode="bicubic", align_corners=True)
        self.register_buffer("weights", weights.flatten(1).to(device))  # (25, 1, H, W) -> (25, H * W)

    def forward(self, images: Tensor, epoch: int = 1, step: int = 0, global_batch_size: int | None = None) -> Tensor:
        """Distort images (N, C, H, W), 0 to 255; returns float32 images of the same shape and scale.

        global_batch_size: number of images in the whole batch if `images` is one rank's shard of it; default: N. Every
        rank draws the amounts for the whole batch, so the result does not depend on the number of ranks.
        """
        self.generator.manual_seed(derived_seed(self.seed, "distortion", epoch, step))
        count = global_batch_size or len(images)
        if self.flip:
            images = torch.where(self._uniform(count, 1).view(-1, 1, 1, 1) < 0, images.flip(3), images)
        images = self._resampled(images.float(), count) if self.resamples else images.float()
        if self.thickness:
            amount = self._uniform(count, 1).view(-1, 1, 1, 1)
            signed = images * amount.sign()  # negative if strokes become thinner: then the maximum is the darkest
            images = torch.addcmul(images, self.thickness * amount, _brightest_around(signed) - signed)
        if self.gamma:
            power = self.gamma * self._uniform(count, 1).view(-1, 1, 1, 1)
            images = 255 * (images / 255).clamp(0, 1) ** power.exp()
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
        # Random amounts (N, amounts), -1..1, of this rank's images.
        return shard(torch.rand(count, amounts, device=self.generator.device, generator=self.generator)) * 2 - 1

    def _affine(self, count: int) -> Tensor:
        # Affine maps (N, 2, 3) from points of the result to points of the image.
        angle, scale_x, scale_y, shear, shift_x, shift_y = self._uniform(count, 6).unbind(1)
        cos, sin = (angle * self.rotation).cos(), (angle * self.rotation).sin()
        scale_x, scale_y, shear = 1 + scale_x * self.scale, 1 + scale_y * self.scale, shear * self.shear
        rows = [cos / scale_x, (cos * shear - sin) / scale_y, sin / scale_x, (sin * shear + cos) / scale_y]
        linear = torch.stack(rows, dim=1).view(-1, 2, 2)  # rotation @ shear @ scaling
        shift = torch.stack([shift_x, shift_y], dim=1).unsqueeze(2) * self.shift  # (N, 2, 1), in the result
        return torch.cat([linear, linear @ shift], dim=2)


def _brightest_around(images: Tensor) -> Tensor:
    # The maximum of the 3x3 pixels around each pixel of (N, C, H, W). Taking the maximum over rows, then over columns
    # is several times as fast as max_pool2d on CPUs.
    x = functional.pad(images, (1, 1, 1, 1), value=-math.inf)  # (N, C, H, W) -> (N, C, H + 2, W + 2)
    x = torch.maximum(torch.maximum(x[..., :-2], x[..., 1:-1]), x[..., 2:])  # -> (N, C, H + 2, W)
    return torch.maximum(torch.maximum(x[..., :-2, :], x[..., 1:-1, :]), x[..., 2:, :])  # -> (N, C, H, W)
