import math

import pytest
import torch
from torchvision.transforms import RandomResizedCrop
from torchvision.transforms.functional import (
    adjust_brightness,
    adjust_contrast,
    adjust_saturation,
    affine,
    resized_crop,
)

from neural_lib.config import TrainConfig
from neural_lib.data import augment
from neural_lib.data.augment import RandomDistortion

SIZE = 28


def smooth_images(count: int) -> torch.Tensor:
    """Copies of an image of a blob off the centre, black at the border: uint8 (count, 1, 28, 28)."""
    rows, columns = torch.meshgrid(torch.arange(SIZE), torch.arange(SIZE), indexing="ij")
    blob = 255 * torch.exp(-((rows - 10) ** 2 / 30 + (columns - 15) ** 2 / 12))
    return blob.to(torch.uint8).expand(count, 1, SIZE, SIZE).contiguous()


def centres(images: torch.Tensor) -> torch.Tensor:
    """The centre of mass of each image, (N, 2): column and row, in pixels."""
    mass = images.float().squeeze(1)
    steps = torch.arange(SIZE).float()
    return torch.stack([(mass.sum(1) * steps).sum(1), (mass.sum(2) * steps).sum(1)], dim=1) / mass.sum((1, 2))[:, None]


def areas(images: torch.Tensor) -> torch.Tensor:
    return images.float().sum((1, 2, 3)) / images.float().amax((1, 2, 3))


def test_all_ranges_at_zero_change_nothing():
    images = smooth_images(3)
    distorted = RandomDistortion(TrainConfig(), SIZE)(images)
    assert distorted.dtype == torch.float32
    torch.testing.assert_close(distorted, images.float(), atol=1e-2, rtol=0)


def test_each_image_is_distorted_in_its_own_way():
    config = TrainConfig(rotation=10, scale=0.1, shear=0.1, shift=2, elastic=0.5)
    distorted = RandomDistortion(config, SIZE)(smooth_images(4))
    assert distorted.shape == (4, 1, SIZE, SIZE)
    assert all(not torch.allclose(distorted[i], distorted[j], atol=5) for i in range(4) for j in range(i))


def test_the_amounts_follow_from_seed_epoch_and_step_alone():
    config = TrainConfig(seed=3, rotation=10, elastic=0.5)
    images = smooth_images(5)
    state = torch.get_rng_state()
    first, again = RandomDistortion(config, SIZE), RandomDistortion(config, SIZE)
    places = [(1, 0), (1, 1), (2, 0)]
    batches = [first(images, *place) for place in places]
    assert torch.equal(torch.get_rng_state(), state)
    assert not any(torch.equal(batches[i], batches[j]) for i in range(3) for j in range(i))
    torch.manual_seed(99)
    for place, batch in zip(places[::-1], batches[::-1], strict=True):  # another order of calls
        assert torch.equal(again(images, *place), batch)
    other = RandomDistortion(TrainConfig(seed=4, rotation=10, elastic=0.5), SIZE)
    assert not torch.equal(batches[0], other(images))


def test_shifts_are_uniform_and_bounded_in_pixels():
    moved = centres(RandomDistortion(TrainConfig(shift=2), SIZE)(smooth_images(2000))) - centres(smooth_images(1))
    assert 1.9 < moved.abs().max() < 2.05  # the tails of the blob leave the image
    assert moved.std(dim=0).tolist() == pytest.approx([2 / math.sqrt(3)] * 2, rel=0.06)  # uniform, -2 to 2
    assert abs(torch.corrcoef(moved.T)[0, 1]) < 0.1


def test_scales_are_bounded_shares_of_height_and_width():
    images = smooth_images(2000)
    share = areas(RandomDistortion(TrainConfig(scale=0.2), SIZE)(images)) / areas(images)
    assert 0.8**2 - 0.05 < share.min() < 0.75 and 1.35 < share.max() < 1.2**2 + 0.05


def test_shifts_are_pixels_of_the_result_whatever_the_scale(monkeypatch):
    monkeypatch.setattr(torch, "rand", lambda *shape, **_: torch.ones(shape))  # the greatest value of every amount
    images = smooth_images(1)
    scaled, both = (RandomDistortion(TrainConfig(scale=0.5, shift=shift), SIZE)(images) for shift in (0, 3))
    torch.testing.assert_close(both[..., :-3, :-3], scaled[..., 3:, 3:], atol=0.1, rtol=0)


def test_rotations_turn_about_the_centre_by_at_most_so_many_degrees():
    offset = centres(smooth_images(1)) - (SIZE - 1) / 2
    turned = centres(RandomDistortion(TrainConfig(rotation=30), SIZE)(smooth_images(2000))) - (SIZE - 1) / 2
    torch.testing.assert_close(turned.norm(dim=1), offset.norm().expand(2000), atol=0.1, rtol=0)
    angles = torch.atan2(turned[:, 1], turned[:, 0]) - torch.atan2(offset[:, 1], offset[:, 0])
    degrees = angles.rad2deg().remainder(360).sub(180).abs().sub(180).abs()
    assert 29 < degrees.max() < 31 and degrees.std() > 5


def test_it_resamples_as_torchvision_does(monkeypatch):
    # Every amount has its greatest value. The affine map goes from the result to the image, so torchvision's angle has
    # the opposite sign, and so has the shift.
    monkeypatch.setattr(torch, "rand", lambda *shape, **_: torch.ones(shape))
    images = smooth_images(1)
    by_torchvision = affine(images.float(), angle=-90, translate=[0, 0], scale=1, shear=[0.0])
    torch.testing.assert_close(
        RandomDistortion(TrainConfig(rotation=90), SIZE)(images), by_torchvision, atol=0.1, rtol=0
    )
    shifted = RandomDistortion(TrainConfig(shift=3), SIZE)(images)
    torch.testing.assert_close(shifted[..., :-3, :-3], images[..., 3:, 3:].float(), atol=0.1, rtol=0)
    assert shifted[..., -3:, :].max() == 0  # pixels from outside of the image are black
    sheared = RandomDistortion(TrainConfig(shear=0.5), SIZE)(images)
    for row in (4, 10, 20):  # a row moves by half of its distance from the centre
        distance = (row - (SIZE - 1) / 2) * 0.5
        mass = [
            (image[0, 0, row].float() * torch.arange(SIZE)).sum() / image[0, 0, row].sum()
            for image in (images, sheared)
        ]
        assert mass[0] - mass[1] == pytest.approx(distance, abs=0.3)


def test_the_elastic_field_has_its_standard_deviation_and_is_smooth():
    distortion = RandomDistortion(TrainConfig(elastic=1.0), SIZE)
    noise = torch.randn(4000, 25, generator=torch.Generator().manual_seed(0))
    field = (noise @ distortion.weights).view(-1, SIZE, SIZE) * distortion.elastic * SIZE / 2  # pixels
    assert field[:, 0, 0].std() == pytest.approx(1, rel=0.05)  # at a control point
    assert 0.7 < field.std() < 1  # lower between them
    assert (field.diff(dim=2).abs() < 1).double().mean() > 0.999  # no fold: neighbours stay in their order


def test_colour_channels_move_together():
    images = smooth_images(2).expand(2, 3, SIZE, SIZE)
    red, green, blue = RandomDistortion(TrainConfig(rotation=20, elastic=1), SIZE)(images).unbind(1)
    assert torch.equal(red, green) and torch.equal(red, blue)


def test_about_half_of_the_images_are_mirrored_and_nothing_else_happens_to_them():
    images = torch.randint(0, 256, (400, 3, 7, 7), dtype=torch.uint8)
    flipped = RandomDistortion(TrainConfig(flip=True), 7)(images)
    assert flipped.dtype == torch.float32
    same = (flipped == images).flatten(1).all(1)
    mirrored = (flipped == images.flip(3)).flatten(1).all(1)
    assert torch.equal(same, ~mirrored) and 150 < mirrored.sum() < 250


def test_mirroring_goes_with_the_other_distortions():
    images = smooth_images(200)
    flipped, straight = (
        RandomDistortion(TrainConfig(flip=flip, rotation=1e-3), SIZE)(images) for flip in (True, False)
    )
    as_straight = (flipped - straight).abs().amax((1, 2, 3)) < 1
    as_mirrored = (flipped - straight.flip(3)).abs().amax((1, 2, 3)) < 1
    assert (as_straight | as_mirrored).all() and 60 < as_mirrored.sum() < 140


def test_thickness_makes_strokes_wider_and_narrower():
    images = torch.zeros(40, 1, SIZE, SIZE, dtype=torch.uint8)
    images[..., 5:-5, 12:16] = 200  # 4 pixels wide
    distorted = RandomDistortion(TrainConfig(thickness=0.8), SIZE)(images)
    widths = distorted[:, 0, SIZE // 2].sum(dim=1) / 200  # (N,)
    assert 4 - 2 * 0.8 <= widths.min() < 3.2 and 4.8 < widths.max() <= 4 + 2 * 0.8
    assert len(widths.unique()) > 30 and distorted.min() == 0 and distorted.max() == 200


def test_gamma_changes_what_is_between_black_and_white():
    images = torch.tensor([0, 128, 255], dtype=torch.uint8).repeat(50, 1, SIZE, 1)  # (50, 1, 28, 3)
    distorted = RandomDistortion(TrainConfig(gamma=0.5), SIZE)(images)
    assert torch.equal(distorted[..., 0], images[..., 0].float()) and torch.equal(
        distorted[..., 2], images[..., 2].float()
    )
    powers = (distorted[:, 0, 0, 1] / 255).log() / math.log(128 / 255)
    assert math.exp(-0.5) <= powers.min() < 0.75 and 1.33 < powers.max() <= math.exp(0.5)


# --- zoom ---


def parts_shown(images: torch.Tensor) -> torch.Tensor:
    """Left, top, width and height (N, 4) of the part that each image shows, as shares of the whole image.

    images: zoomed images (N, 2, S, S), in which each pixel's values were 10 times its column and its row.
    """
    size = images.shape[2]
    columns, rows = images[:, 0].mean(1) / 10, images[:, 1].mean(2) / 10  # (N, S) each
    inner = slice(size // 4, -(size // 4))  # no part's border
    spots = torch.stack([columns[:, inner], rows[:, inner]], dim=1)
    sides = (spots[..., -1] - spots[..., 0]) / (spots.shape[2] - 1)
    return torch.cat([(spots.mean(2) + 0.5) / size - sides / 2, sides], dim=1)


@pytest.fixture(scope="module")
def parts() -> torch.Tensor:
    """The parts (4000, 4) that --zoom 0.75 shows."""
    steps = torch.arange(0, 240, 10, dtype=torch.uint8)
    ramps = torch.stack([steps.expand(24, 24), steps.view(24, 1).expand(24, 24)]).expand(4000, 2, 24, 24)
    return parts_shown(RandomDistortion(TrainConfig(zoom=0.75), 24)(ramps))


def test_zoom_shows_parts_inside_the_image_of_at_least_1_minus_zoom_of_its_area(parts):
    area, ratio = parts[:, 2:].prod(1), parts[:, 2] / parts[:, 3]
    assert 0.249 < area.min() < 0.26 and 0.99 < area.max() < 1.001
    assert area.mean() == pytest.approx(0.625, abs=0.01) and area.std() == pytest.approx(0.75 / 12**0.5, rel=0.05)
    assert 0.749 < ratio.min() < 0.76 and 1.32 < ratio.max() < 1.334
    assert parts.min() > -1e-3 and (parts[:, :2] + parts[:, 2:]).max() < 1.001


def test_parts_of_up_to_three_quarters_are_drawn_as_torchvision_draws_them(parts):
    torch.manual_seed(0)
    whole = torch.empty(3, 1000, 1000)
    drawn = [RandomResizedCrop.get_params(whole, [0.25, 1], [3 / 4, 4 / 3]) for _ in range(4000)]
    theirs = torch.tensor(drawn)[:, [1, 0, 3, 2]] / 1000
    theirs, ours = (each[each[:, 2:].prod(1) < 0.75] for each in (theirs, parts))
    shares = torch.tensor([0.01, 0.1, 0.3, 0.5, 0.7, 0.9, 0.99])
    torch.testing.assert_close(ours.quantile(shares, dim=0), theirs.quantile(shares, dim=0), atol=0.025, rtol=0)
    torch.testing.assert_close(torch.corrcoef(ours.T), torch.corrcoef(theirs.T), atol=0.06, rtol=0)


@pytest.mark.parametrize("zoom, amounts, part", [
    # amounts, 0 to 1: area, ratio of width to height, column and row; part: top, left, height and width, pixels
    (1 / 4, [1, 1, 1, 1], (8, 0, 24, 32)),
    (13 / 16, [1, 1, 1, 0], (0, 16, 12, 16)),
    (13 / 16, [1, 0, 0.5, 1], (16, 10, 16, 12)),
    (13 / 16, [0, 1, 1, 1], (0, 0, 32, 32)),
])  # fmt: skip
def test_zoom_resamples_as_torchvision_does(monkeypatch, zoom, amounts, part):
    draws = {4: torch.tensor([amounts]), 6: torch.ones(1, 6)}
    monkeypatch.setattr(torch, "rand", lambda _, amounts, **__: draws[amounts].float())
    images = torch.randint(0, 256, (1, 3, 32, 32), dtype=torch.uint8)
    zoomed = RandomDistortion(TrainConfig(zoom=zoom), 32)(images)
    by_torchvision = resized_crop(images.float(), *part, [32, 32], antialias=False)
    top, left, height, width = part
    # torchvision doesn't look at the pixels around the part, so at sides inside the image the outermost pixels differ
    same = (slice(2 * (top > 0), 32 - 2 * (top + height < 32)), slice(2 * (left > 0), 32 - 2 * (left + width < 32)))
    torch.testing.assert_close(zoomed[..., *same], by_torchvision[..., *same], atol=0.01, rtol=0)


def test_zoom_alone_shows_nothing_from_outside_of_the_image():
    white = torch.full((300, 1, 16, 16), 255, dtype=torch.uint8)
    torch.testing.assert_close(RandomDistortion(TrainConfig(zoom=0.9), 16)(white), white.float(), atol=0.01, rtol=0)


def test_shifts_are_pixels_of_the_result_whatever_the_part(monkeypatch):
    monkeypatch.setattr(torch, "rand", lambda *shape, **_: torch.full(shape, 0.75))
    images = smooth_images(1)
    zoomed, both = (RandomDistortion(TrainConfig(zoom=0.5, shift=shift), SIZE)(images) for shift in (0, 6))
    torch.testing.assert_close(both[..., :-3, :-3], zoomed[..., 3:, 3:], atol=0.1, rtol=0)


# --- color ---


def color_factors(images: torch.Tensor) -> torch.Tensor:
    """The factors (N, 3) of brightness, contrast and saturation that made `images` out of halves().

    Contrast and saturation keep the mean grey; saturation keeps each pixel's grey.
    """
    grey, (original,) = rgb_to_grey(images), rgb_to_grey(halves(1).float())
    brightness = grey.mean((1, 2)) / original.mean()
    contrast = (grey[:, 0, -1] - grey[:, 0, 0]) / (original[0, -1] - original[0, 0]) / brightness
    colour, original_colour = (each[:, 0, 0, -1] - each[:, 1, 0, -1] for each in (images, halves(1).float()))
    return torch.stack([brightness, contrast, colour / original_colour / brightness / contrast], dim=1)


def rgb_to_grey(images: torch.Tensor) -> torch.Tensor:
    return torch.einsum("nchw,c->nhw", images, torch.tensor([0.2989, 0.587, 0.114]))


def halves(count: int) -> torch.Tensor:
    """Images with a grey left and a brighter red right half: uint8 (count, 3, 2, 2)."""
    pixels = torch.tensor([[80, 140], [80, 100], [80, 100]], dtype=torch.uint8)
    return pixels.view(1, 3, 1, 2).expand(count, 3, 2, 2)


def test_color_factors_are_uniform_around_1_and_independent():
    factors = color_factors(RandomDistortion(TrainConfig(color=0.3), 2)(halves(4000)))
    assert (factors.amin(0) > 0.699).all() and (factors.amin(0) < 0.71).all()
    assert (factors.amax(0) < 1.301).all() and (factors.amax(0) > 1.29).all()
    torch.testing.assert_close(factors.std(0), torch.full([3], 0.6 / 12**0.5), atol=0, rtol=0.05)
    torch.testing.assert_close(torch.corrcoef(factors.T), torch.eye(3), atol=0.06, rtol=0)


@pytest.mark.parametrize("channels", [1, 3])
def test_color_is_torchvisions_brightness_then_contrast_then_saturation(monkeypatch, channels):
    amounts = torch.tensor([[0.9, 0.2, 0.7], [0.1, 1.0, 0.0], [0.75, 0.75, 1.0], [0.5, 0.0, 0.5]])
    monkeypatch.setattr(torch, "rand", lambda *shape, **_: amounts)
    images = torch.randint(0, 256, (4, channels, 20, 20), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    images = images.sort(3).values  # so that images differ in their mean, and pixels reach 0 and 255
    images[1] //= 2
    unchanged = images.clone()
    distorted = RandomDistortion(TrainConfig(color=0.8), 20)(images)
    for image, result, factors in zip(images, distorted, (1 + 0.8 * (2 * amounts - 1)).tolist(), strict=True):
        expected = adjust_contrast(adjust_brightness(image / 255, factors[0]), factors[1])
        expected = adjust_saturation(expected, factors[2]) * 255
        torch.testing.assert_close(result, expected, atol=0.01, rtol=0)
    assert torch.equal(images, unchanged)


def test_color_leaves_floating_point_images_that_it_is_given_as_they_are():
    images = halves(3).float()
    RandomDistortion(TrainConfig(color=0.3), 2)(images)
    assert torch.equal(images, halves(3).float())


def test_each_rank_draws_the_amounts_of_its_images(monkeypatch):
    config = TrainConfig(rotation=10, elastic=0.5, flip=True, thickness=0.5, gamma=0.5, zoom=0.5, color=0.5)
    distortion, images = RandomDistortion(config, SIZE), smooth_images(5).expand(5, 3, SIZE, SIZE)
    whole = distortion(images)
    for rank in (0, 1):
        monkeypatch.setattr(augment, "shard", lambda batch, rank=rank: batch[rank::2])
        part = distortion(images[rank::2], global_batch_size=5)
        torch.testing.assert_close(part, whole[rank::2], atol=0.01, rtol=0)
