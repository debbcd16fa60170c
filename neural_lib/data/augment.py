"""Random distortions of a whole batch of images at once."""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from neural_lib.config import TrainConfig, derived_seed
from neural_lib.system.distributed import shard

GREY = (0.2989, 0.587, 0.114)  # shares of red, green and blue, as in torchvision's rgb_to_grayscale
MAX_ASPECT_RATIO = 4 / 3  # of a part of an image, and 3 / 4 the least, as in torchvision's RandomResizedCrop
CONTROL_POINTS = 5  # per side of the elastic field; on 28 pixels they are 7 apart, so strokes bend and don't fray


class RandomDistortion(nn.Module):
    """Distorts each image by random amounts, which depend only on the config's seed, the epoch and the step.

    In this order, as TrainConfig and README.md describe them: flip; zoom to a part of the image, then rotation, scale
    and shear about the centre, shift, and elastic displacements (Ronneberger et al. 2015, arXiv:1505.04597, section
    3.1), all in one resampling; thickness, by blending each pixel with the brightest, or the darkest, of the 3x3 pixels
    around it; gamma; color, as torchvision's adjust_brightness, adjust_contrast and adjust_saturation, in this order.
    Pixels from outside of an image are 0; zoom alone shows none.
    """

    def __init__(self, config: TrainConfig, image_size: int, device: torch.device | str = "cpu") -> None:
        super().__init__()
        self.rotation, self.scale, self.shear = math.radians(config.rotation), config.scale, config.shear
        # affine_grid's unit of length is half an image.
        self.shift, self.elastic = (pixels * 2 / image_size for pixels in (config.shift, config.elastic))
        self.flip, self.thickness, self.gamma = config.flip, config.thickness, config.gamma
        self.zoom, self.color = config.zoom, config.color
        self.moves = any((self.rotation, self.scale, self.shear, self.shift, self.elastic))
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
        images = self._resampled(images.float(), count) if self.moves or self.zoom else images.float()
        if self.thickness:
            amount = self._uniform(count, 1).view(-1, 1, 1, 1)
            signed = images * amount.sign()  # negative if strokes become thinner: then the maximum is the darkest
            images = torch.addcmul(images, self.thickness * amount, _brightest_around(signed) - signed)
        if self.gamma:
            power = self.gamma * self._uniform(count, 1).view(-1, 1, 1, 1)
            images = 255 * (images / 255).clamp(0, 1) ** power.exp()
        return self._recoloured(images, count) if self.color else images

    def _resampled(self, images: Tensor, count: int) -> Tensor:
        grid = functional.affine_grid(self._affine(count), list(images.shape), align_corners=False)  # (N, H, W, 2)
        if self.elastic:
            points = 2 * len(self.weights)
            noise = shard(torch.randn(count, points, device=self.generator.device, generator=self.generator))  # (N, 50)
            bend = noise.reshape(len(images) * 2, -1) @ self.weights  # (2 N, 25) -> (2 N, H * W)
            grid += self.elastic * bend.view(len(images), 2, *images.shape[2:]).permute(0, 2, 3, 1)  # -> (N, H, W, 2)
        if self.zoom:
            sides, centres = self._parts(count)
            grid = grid.mul_(sides).add_(centres)
        # Points of a part at the border may be up to half a pixel beyond the outermost pixels' centres.
        padding = "zeros" if self.moves else "border"
        return functional.grid_sample(images, grid, padding_mode=padding, align_corners=False)

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

    def _parts(self, count: int) -> tuple[Tensor, Tensor]:
        # Sides and centres of the parts to zoom to, x and y, (N, 1, 1, 2) each. The whole image has the side 1 and the
        # centre 0. RandomResizedCrop draws area and ratio again if a side is longer than the image; here the ratio is
        # drawn from those that fit the area, so large areas are as frequent as small ones.
        area, ratio, x, y = self._uniform(count, 4).unbind(1)
        area = 1 - self.zoom * (area + 1) / 2  # 1 - zoom to 1
        log_ratio = ratio * (-area.log()).clamp(max=math.log(MAX_ASPECT_RATIO))
        sides = torch.stack([(area.log() + log_ratio) / 2, (area.log() - log_ratio) / 2], dim=1).exp()
        centres = torch.stack([x, y], dim=1) * (1 - sides)
        return sides.view(-1, 1, 1, 2), centres.view(-1, 1, 1, 2)

    def _recoloured(self, images: Tensor, count: int) -> Tensor:
        factors = 1 + self.color * self._uniform(count, 3)
        brightness, contrast, saturation = factors.view(-1, 3, 1, 1, 1).unbind(1)  # (N, 1, 1, 1) each
        images = (images * brightness).clamp_(0, 255)
        images = _blend_(images, _grey(images).mean((2, 3), keepdim=True), contrast)
        return _blend_(images, _grey(images), saturation) if images.shape[1] == 3 else images


def _blend_(images: Tensor, others: Tensor, share: Tensor) -> Tensor:
    # Changed in place: new memory of a batch's size takes longer than the arithmetic.
    return images.mul_(share).add_(others * (1 - share)).clamp_(0, 255)


def _grey(images: Tensor) -> Tensor:
    # The brightness (N, 1, H, W) of each pixel of grey or RGB images.
    if images.shape[1] == 1:
        return images
    return (images * images.new_tensor(GREY).view(3, 1, 1)).sum(1, keepdim=True)


def _brightest_around(images: Tensor) -> Tensor:
    # The maximum of the 3x3 pixels around each pixel of (N, C, H, W). Taking the maximum over rows, then over columns
    # is several times as fast as max_pool2d on CPUs.
    x = functional.pad(images, (1, 1, 1, 1), value=-math.inf)  # (N, C, H, W) -> (N, C, H + 2, W + 2)
    x = torch.maximum(torch.maximum(x[..., :-2], x[..., 1:-1]), x[..., 2:])  # -> (N, C, H + 2, W)
    return torch.maximum(torch.maximum(x[..., :-2, :], x[..., 1:-1, :]), x[..., 2:, :])  # -> (N, C, H, W)
