"""Random distortions of a whole batch of images at once, drawn from a generator of their own."""

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional

from neural_lib.config import TrainConfig
from neural_lib.processes import ALONE, Processes

CONTROL_POINTS = 5  # a side, of the elastic field: 7 pixels apart on 28, so that strokes bend and don't fray

RESAMPLED = ("rotation", "scale", "shear", "shift", "elastic")


class RandomDistortion(nn.Module):
    """Flips each with a chance of one half, then rotates, scales, shears, shifts and bends it by amounts of its own.

    The amounts are uniform from minus to plus the config's `rotation` (degrees), `scale` (share; height and width each
    for itself), `shear` (horizontal pixels per vertical one) and `shift` (pixels; each way for itself), the first three
    about the centre. `elastic` is the standard deviation, in pixels, of displacements drawn at coarse control points
    and interpolated smoothly between them, as Ronneberger et al. 2015 (arXiv:1505.04597, section 3.1) do. What lies
    outside of an image is 0.

    processes: where each of several has a part of a batch; each draws the amounts for all of it, in the same order.
    """

    def __init__(
        self,
        config: TrainConfig,
        image_size: int,
        device: torch.device | str = "cpu",
        processes: Processes = ALONE,
    ) -> None:
        super().__init__()
        self.rotation, self.scale, self.shear = math.radians(config.rotation), config.scale, config.shear
        self.shift, self.elastic = (pixels * 2 / image_size for pixels in (config.shift, config.elastic))  # half images
        self.flip, self.resamples = config.flip, any(getattr(config, name) for name in RESAMPLED)
        self.processes = processes
        self.generator = torch.Generator(device).manual_seed(config.seed)
        # what each control point adds to each pixel: interpolation is linear, and one product is its fastest form
        points = torch.eye(CONTROL_POINTS**2).view(-1, 1, CONTROL_POINTS, CONTROL_POINTS)
        weights = functional.interpolate(points, (image_size, image_size), mode="bicubic", align_corners=True)
        self.register_buffer("weights", weights.flatten(1).to(device))  # (25, 1, H, W) -> (25, H * W)

    def forward(self, images: Tensor) -> Tensor:
        """Images (N, C, H, W) of any dtype and scale -> float32 images of the same shape and scale."""
        if self.flip:
            images = self._flipped(images)
        if not self.resamples:
            return images.float()
        count, _, height, width = images.shape
        affine = self._affine(images)
        noise = self._draw(torch.randn, images, 2 * len(self.weights)) if self.elastic else None  # (N, 50)
        if not count:  # the part of a process that gets none, which has drawn as the others have
            return images.float()
        grid = functional.affine_grid(affine, list(images.shape), align_corners=False)
        if self.elastic:
            bend = (noise.reshape(count * 2, -1) @ self.weights).view(count, 2, height, width)  # -> (N, 2, H, W)
            grid += self.elastic * bend.permute(0, 2, 3, 1)  # -> (N, H, W, 2)
        return functional.grid_sample(images.float(), grid, padding_mode="zeros", align_corners=False)

    def _flipped(self, images: Tensor) -> Tensor:
        heads = self._draw(torch.rand, images, 1).view(-1, 1, 1, 1) < 0.5
        return torch.where(heads, images.flip(3), images)

    def _draw(self, distribution: Callable[..., Tensor], images: Tensor, amounts: int) -> Tensor:
        # (N, amounts); of several processes each draws for the whole batch, and takes its part
        whole = self.processes.whole(images)
        drawn = distribution(whole, amounts, device=self.generator.device, generator=self.generator)
        return self.processes.part(drawn)

    def _affine(self, images: Tensor) -> Tensor:
        # (N, 2, 3): takes a point of the result to the point of the image that is seen there
        random = self._draw(torch.rand, images, 6) * 2 - 1  # -1..1
        angle, scale_x, scale_y, shear, shift_x, shift_y = random.unbind(1)
        cos, sin = (angle * self.rotation).cos(), (angle * self.rotation).sin()
        scale_x, scale_y, shear = 1 + scale_x * self.scale, 1 + scale_y * self.scale, shear * self.shear
        rows = [cos / scale_x, (cos * shear - sin) / scale_y, sin / scale_x, (sin * shear + cos) / scale_y]
        linear = torch.stack(rows, dim=1).view(-1, 2, 2)  # rotation @ shear @ scaling
        shift = torch.stack([shift_x, shift_y], dim=1).unsqueeze(2) * self.shift  # (N, 2, 1), in the result
        return torch.cat([linear, linear @ shift], dim=2)
