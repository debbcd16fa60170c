import math

import pytest
import torch
from torchvision.transforms.functional import affine

from neural_lib.config import TrainConfig
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
