import pytest
import torch
from torch.utils.data import DataLoader, random_split
from torchvision.transforms.functional import to_tensor

from neural_lib.config import TrainConfig
from neural_lib.errors import UserError
from neural_lib.loaders import ImageTensors, Normalisation, make_loader, split

AS_TO_TENSOR = Normalisation([0.0], [1.0])  # pixels / 255


def make_set(count: int = 100) -> ImageTensors:
    """Images that are known by their labels: 0, 1, 2, ..."""
    pixels = torch.randint(256, (count, 1, 28, 28), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    return ImageTensors(pixels, torch.arange(count))


def labels_of(loader) -> list[list[int]]:
    return [labels.tolist() for _, labels in loader]


def test_the_split_is_random_splits_with_the_seed():
    everything = make_set()
    parts = split(everything, TrainConfig(seed=42))
    expected = random_split(range(100), [75, 25], torch.Generator().manual_seed(42))
    assert [part.labels.tolist() for part in parts] == [part.indices for part in expected]
    assert all(torch.equal(part.images, everything.images[part.labels]) for part in parts)


def test_the_split_depends_on_its_seed_alone():
    torch.manual_seed(1)
    first = split(make_set(), TrainConfig(seed=7))[0].labels
    torch.manual_seed(2)
    assert torch.equal(split(make_set(), TrainConfig(seed=7))[0].labels, first)
    assert not torch.equal(split(make_set(), TrainConfig(seed=8))[0].labels, first)


def test_the_parts_stay_on_their_device():
    elsewhere = ImageTensors(*make_set()[range(100)], "meta")  # torch's device without values
    for part in split(elsewhere, TrainConfig()):
        loader = make_loader(part, 32, Normalisation([0.0], [1.0]).to("meta"), shuffle_seed=0)
        assert {tensor.device.type for batch in loader for tensor in batch} == {"meta"}


def test_a_batch_larger_than_the_training_part_is_refused():
    with pytest.raises(UserError, match="--batch-size 76"):
        split(make_set(), TrainConfig(batch_size=76))


def test_a_loader_is_torchs_own_and_gives_every_image_once():
    loader = make_loader(make_set(), 32, AS_TO_TENSOR, shuffle_seed=0)
    assert type(loader) is DataLoader
    batches = labels_of(loader)
    assert [len(batch) for batch in batches] == [32, 32, 32, 4] and len(loader) == 4
    assert sorted(sum(batches, [])) == list(range(100))
    assert len(make_loader(make_set(96), 32, AS_TO_TENSOR)) == 3


def test_only_a_seeded_loader_shuffles_anew_each_epoch_and_repeatably():
    still = make_loader(make_set(), 32, AS_TO_TENSOR)
    assert sum(labels_of(still), []) == list(range(100))
    first, again = (make_loader(make_set(), 32, AS_TO_TENSOR, shuffle_seed=5) for _ in range(2))

    def epochs_of(loader) -> list:
        return [loader.sampler.set_epoch(epoch) or labels_of(loader) for epoch in (1, 2)]

    assert epochs_of(first)[0] != epochs_of(first)[1]
    assert epochs_of(first) == epochs_of(again)


@pytest.mark.parametrize("shuffle_seed", [None, 3])
def test_loading_draws_nothing_from_torchs_default_generator(shuffle_seed):
    state = torch.get_rng_state()
    labels_of(make_loader(make_set(), 32, AS_TO_TENSOR, shuffle_seed))
    assert torch.equal(torch.get_rng_state(), state)


def test_a_batch_is_what_decoding_each_image_would_give():
    dataset = make_set(10)
    images, labels = next(iter(make_loader(dataset, 10, AS_TO_TENSOR, shuffle_seed=1)))
    assert labels.tolist() != list(range(10))
    for image, label in zip(images, labels, strict=True):
        assert torch.equal(image, to_tensor(dataset.images[label][0].numpy()))  # torchvision's ToTensor


def test_the_transform_gets_the_pixels_of_a_whole_batch():
    seen = []
    list(make_loader(make_set(10), 4, lambda images: seen.append(images) or images))
    assert [images.shape[0] for images in seen] == [4, 4, 2]
    assert torch.equal(torch.cat(seen), make_set(10).images)


def test_normalisation_is_per_channel():
    pixels = torch.randint(256, (2, 3, 28, 28), dtype=torch.uint8)
    mean, std = (0.1, 0.2, 0.3), (0.4, 0.5, 0.6)
    expected = torch.stack([(pixels[:, c] / 255 - mean[c]) / std[c] for c in range(3)], dim=1)
    torch.testing.assert_close(Normalisation(mean, std)(pixels), expected)
    assert Normalisation(mean, std)(pixels).is_contiguous(memory_format=torch.channels_last)


def test_an_epoch_can_begin_with_a_later_batch_and_the_next_is_whole_again():
    resumed, whole = (make_loader(make_set(), 30, AS_TO_TENSOR, shuffle_seed=1) for _ in range(2))
    for loader, step in ((resumed, 2), (whole, 0)):
        loader.sampler.set_epoch(3, step)
    first, all_of_it = labels_of(resumed), labels_of(whole)
    assert len(all_of_it) == 4 and first == all_of_it[2:]
    for loader in (resumed, whole):
        loader.sampler.set_epoch(4)
    assert labels_of(resumed) == labels_of(whole)


def test_a_distortion_gets_the_place_of_each_batch():
    seen = []

    def distortion(images, epoch, step, global_batch_size):
        seen.append((len(images), epoch, step, global_batch_size))
        return images

    loader = make_loader(make_set(), 30, AS_TO_TENSOR, shuffle_seed=1, distortion=distortion)
    loader.sampler.set_epoch(2, 1)
    labels_of(loader)
    assert seen == [(30, 2, 1, 30), (30, 2, 2, 30), (10, 2, 3, 10)]
