import os
import pickle
import re
import warnings
from pathlib import Path

import made_up
import numpy as np
import pytest
import torch
from conftest import change_kmnist
from one_run import train_epochs, weights_of
from torch.utils.data import DataLoader, random_split
from torchvision.transforms.functional import to_tensor

from neural_lib.config import TrainConfig
from neural_lib.data import images as images_module
from neural_lib.data.catalog import DATASETS
from neural_lib.data.download import DownloadError, is_available
from neural_lib.data.images import (
    Data,
    ImageTensors,
    Normalisation,
    evaluation_loader,
    load_data,
    load_images,
    make_loader,
    pixels_of,
    split,
)
from neural_lib.evaluation.scores import evaluate
from neural_lib.system import files
from neural_lib.system.errors import UserError
from neural_lib.training.run import build_run

# --- read from the disk ---


def test_digits_need_no_files_and_have_a_fixed_test_part(tmp_path):
    info = DATASETS["digits"]
    assert is_available("digits", tmp_path / "nowhere")
    train, test = (load_images("digits", tmp_path / "nowhere", part) for part in (True, False))
    for part, size in ((train, info.train_size), (test, info.test_size)):
        assert part.images.shape == (size, 1, 28, 28)
        assert part.images.dtype == torch.uint8
        assert part.labels.shape == (size,)
        assert part.labels.unique().tolist() == list(range(10))
    assert torch.equal(load_images("digits", tmp_path, False).images, test.images)


@pytest.mark.parametrize("as_a_whole", [True, False])
def test_each_image_keeps_its_name(as_a_whole):
    images = torch.arange(6, dtype=torch.uint8).view(6, 1, 1, 1).expand(-1, 1, 20, 20)
    named = ImageTensors(images, torch.arange(6), names=list("abcdef"))
    part = named.subset(torch.tensor([4, 1, 3])).subset(torch.tensor([2, 0]))
    for each in (part, part.labelled(torch.zeros(2)), part.evenly(5), part.to("meta", as_a_whole)):
        assert [each.name(index) for index in range(len(each))] == ["d", "e"]
    assert [named.evenly(3).name(index) for index in range(3)] == ["a", "c", "e"] and len(named.evenly(0)) == 0
    assert ImageTensors(images, torch.arange(6)).name(0) == ""
    test = load_images("digits", "nowhere", train=False)
    assert (test.name(7), load_images("digits", "nowhere", train=True).name(0)) == ("test[7]", "train[0]")


@pytest.mark.parametrize("train, count, seed", [(True, made_up.TRAIN_SIZE, 0), (False, made_up.TEST_SIZE, 1)])
def test_idx_files_are_read_as_they_were_written(kmnist_dir, train, count, seed):
    images, labels = load_images("kmnist", kmnist_dir, train)[:]
    expected_images, expected_labels = made_up.make_images(count, seed)
    assert torch.equal(images.squeeze(1), torch.from_numpy(expected_images))
    assert torch.equal(labels, torch.from_numpy(expected_labels).long())


def test_files_of_old_torchvision_versions_are_not_read(kmnist_dir):
    # torchvision's class prefers KMNIST/processed/*.pt to the verified files.
    processed = kmnist_dir / "KMNIST" / "processed"
    processed.mkdir()
    for name in ("training.pt", "test.pt"):
        torch.save((torch.zeros(1, 28, 28, dtype=torch.uint8), torch.zeros(1).long()), processed / name)
    assert len(load_images("kmnist", kmnist_dir, train=True).images) == made_up.TRAIN_SIZE


@pytest.mark.parametrize("train", [True, False])
def test_cifars_batches_are_read_as_they_were_written(cifar_dir, train):
    seeds = range(5) if train else [5]
    expected = [made_up.make_colour_images(made_up.CIFAR_BATCH_SIZE, seed) for seed in seeds]
    with warnings.catch_warnings(action="error"):  # NumPy warns of pickles from 2009
        images, labels = load_images("cifar10", cifar_dir, train)[:]
    assert images.dtype == torch.uint8 and labels.dtype == torch.int64
    assert torch.equal(images, torch.from_numpy(np.concatenate([pixels for pixels, _ in expected])))
    assert torch.equal(labels, torch.from_numpy(np.concatenate([each for _, each in expected])))


def test_the_made_up_batches_are_in_cifars_real_format(cifar_batches):
    # The other tests rely on this.
    with warnings.catch_warnings(action="ignore"):
        for name, content in cifar_batches.items():
            batch = pickle.loads(content, encoding="latin1")  # as torchvision's CIFAR10 does
            assert set(batch) == {"batch_label", "labels", "data", "filenames"}, name
            assert batch["data"].shape == (made_up.CIFAR_BATCH_SIZE, 3072) and batch["data"].dtype == np.uint8


class Malicious:
    def __reduce__(self):
        return os.mkdir, ("was_here",)


@pytest.mark.parametrize("is_replaced_late", [False, True])
def test_no_batch_is_unpickled_but_the_official_one(cifar_dir, tmp_path, monkeypatch, is_replaced_late):
    monkeypatch.chdir(tmp_path)
    path = cifar_dir / "cifar-10-batches-py" / "data_batch_3"
    path.write_bytes(pickle.dumps(Malicious()).ljust(path.stat().st_size, b"."))
    if is_replaced_late:  # after the check of all files, before the file is read
        monkeypatch.setattr("neural_lib.data.download.ensure_dataset", lambda *_: None)
    with pytest.raises(UserError, match="data_batch_3: damaged, or not the official file"):
        load_images("cifar10", cifar_dir, train=True)
    assert not (tmp_path / "was_here").exists()


def test_load_data_reads_both_parts(kmnist_dir, tmp_path):
    assert is_available("kmnist", kmnist_dir) and not is_available("kmnist", tmp_path / "nowhere")
    data = load_data(TrainConfig(), kmnist_dir)
    assert (data.dataset, data.warning) == ("kmnist", "")
    assert [len(part.images) for part in (data.train, data.test)] == [made_up.TRAIN_SIZE, made_up.TEST_SIZE]


def test_a_data_set_that_cannot_be_downloaded_is_replaced_by_digits_if_allowed(monkeypatch, tmp_path, caplog):
    change_kmnist(monkeypatch, sources={})
    data = load_data(TrainConfig(), tmp_path, may_fall_back=True)
    assert data.dataset == "digits" and data.warning.startswith("this run uses digits, NOT kmnist")
    assert "THIS RUN USES DIGITS, NOT KMNIST" in caplog.text
    with pytest.raises(DownloadError, match="or train on the embedded digits"):
        load_data(TrainConfig(), tmp_path)


# --- in memory ---


def make_data(images: torch.Tensor, labels: torch.Tensor) -> Data:
    return Data("kmnist", DATASETS["kmnist"], ImageTensors(images, labels), ImageTensors(images[:1], labels[:1]))


@pytest.mark.parametrize("channels", [1, 3])
def test_the_statistics_are_each_channels_mean_and_deviation(channels):
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(256, (20, channels, 8, 8), dtype=torch.uint8, generator=generator)
    pixels[:, 0] //= 4  # the channels differ
    mean, std = make_data(pixels, torch.arange(20)).statistics
    flat = pixels.double().transpose(0, 1).flatten(1) / 255  # (N, C, H, W) -> (C, N * H * W)
    assert mean == pytest.approx(flat.mean(1).tolist(), abs=5e-5)
    assert std == pytest.approx(flat.std(1, correction=0).tolist(), abs=5e-5)
    assert all(value == round(value, 4) for value in mean + std)


def test_a_channel_that_does_not_vary_can_be_divided_by_its_deviation():
    pixels = torch.zeros(4, 3, 8, 8, dtype=torch.uint8)
    pixels[:, 1], pixels[:2, 2] = 77, 255
    assert make_data(pixels, torch.arange(4)).statistics == ([0.0, 0.302, 0.5], [1.0, 1.0, 0.5])


def test_the_fingerprint_depends_on_images_labels_and_their_order():
    pixels = torch.randint(256, (6, 1, 4, 4), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    labels, order = torch.arange(6), torch.tensor([1, 0, 2, 3, 4, 5])
    changed = pixels.clone()
    changed[5, 0, 3, 3] ^= 1
    prints = [
        make_data(*each).fingerprint
        for each in ((pixels, labels), (pixels[order], labels[order]), (changed, labels), (pixels, labels.flip(0)),
                     (pixels.reshape(6, 1, 2, 8), labels))
    ]  # fmt: skip
    assert len(set(prints)) == 5
    assert make_data(pixels.clone(), labels.clone()).fingerprint == prints[0]


def test_pixels_of_moves_the_channels_last():
    colour = torch.arange(24, dtype=torch.uint8).view(3, 2, 4)
    assert np.array_equal(pixels_of(colour), colour.permute(1, 2, 0).numpy())
    assert np.array_equal(pixels_of(colour[:1]), colour[0].numpy())


AS_TO_TENSOR = Normalisation([0.0], [1.0])  # pixels / 255


def make_set(count: int = 100) -> ImageTensors:
    """Images whose labels are their numbers: 0, 1, 2, ..."""
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
    on_meta = ImageTensors(*make_set()[range(100)], "meta")  # torch's device for tensors without values
    for part in split(on_meta, TrainConfig()):
        loader = make_loader(part, 32, Normalisation([0.0], [1.0]).to("meta"), shuffle_seed=0)
        assert {tensor.device.type for batch in loader for tensor in batch} == {"meta"}


def make_parts(device: str = "cpu") -> Data:
    """100 images: 60 to train on, 20 to validate and 20 to test, all in one tensor."""
    whole, order = make_set(), torch.randperm(100, generator=torch.Generator().manual_seed(0))
    train, val, test = (
        ImageTensors(whole.stored, part % 10, device, part) for part in (order[:60], order[60:80], order[80:])
    )
    return Data("kmnist", DATASETS["kmnist"], train, test, val)


def test_images_move_to_a_gpu_as_a_whole_if_they_take_half_of_its_free_memory_or_less(monkeypatch):
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (1001, 9999))
    assert images_module.fits_on("cuda", 500) and not images_module.fits_on(torch.device("cuda", 1), 501)
    assert images_module.fits_on("cpu", 10**15) and images_module.fits_on("meta", 10**15)


@pytest.mark.parametrize("fits", [True, False])
def test_all_parts_move_as_a_whole_or_none(monkeypatch, caplog, fits):
    sizes, data = [], make_parts()
    monkeypatch.setattr(images_module, "fits_on", lambda _, size: sizes.append(size) or fits)
    caplog.set_level("INFO")
    moved = data.to(torch.device("meta"))
    assert sizes == [100 * 28 * 28] and ("batch by batch" in caplog.text) != fits
    for part, before in ((moved.train, data.train), (moved.val, data.val), (moved.test, data.test)):
        assert part.device.type == part.labels.device.type == "meta" and len(part) == len(before)
        assert part.stored.shape == ((len(before), 1, 28, 28) if fits else (100, 1, 28, 28))
        assert (part.stored.device.type == "meta") == fits and (part.stored is before.stored) != fits
        for images, labels in make_loader(part.subset(torch.arange(19)), 8, Normalisation([0.0], [1.0]).to("meta"), 1):
            assert images.device.type == labels.device.type == "meta" and len(images) == len(labels) > 2
    if not fits:
        assert torch.equal(moved.train.on_cpu()[torch.arange(9)], data.train.images[:9])
        assert moved.statistics == data.statistics


def test_the_images_that_move_as_a_whole_are_those_of_the_part(monkeypatch):
    monkeypatch.setattr(images_module, "CHUNK", 7)
    part, stored = make_parts().val, []
    monkeypatch.setattr(torch, "empty", lambda *shape, **_: stored.append(torch.zeros(shape)) or stored[0])
    part.to("meta")
    assert torch.equal(stored[0].to(torch.uint8), part.images)


def test_a_batch_goes_to_a_gpu_from_pinned_memory():
    calls = []

    class Batch:
        def pin_memory(self):
            return calls.append("pinned") or self

        def to(self, device, non_blocking):
            return calls.append((device.type, non_blocking)) or self

    images_module._moved(Batch(), torch.device("cuda"))
    images_module._moved(Batch(), torch.device("mps"))
    assert calls == ["pinned", ("cuda", True), ("mps", True)]


def test_training_and_scores_are_the_same_if_each_batch_is_moved(monkeypatch):
    def trained(data: Data) -> tuple:
        run = train_epochs(build_run(TrainConfig(batch_size=16, epochs=2, rotation=10.0), data, torch.device("cpu")), 2)
        scores = evaluate(run.model, evaluation_loader(data.test, Normalisation(*data.statistics)))
        return weights_of(run), run.state.rows[-1]["val_loss"], scores.loss, scores.labels.tolist(), data.fingerprint

    data = make_parts()
    parts = (ImageTensors(part.images, part.labels) for part in (data.train, data.test, data.val))
    whole = trained(Data("kmnist", data.info, *parts))
    moved, move = [], images_module._moved
    monkeypatch.setattr(images_module, "_moved", lambda *each: moved.append(each[1]) or move(*each))
    monkeypatch.setattr(ImageTensors, "device", torch.device("cpu", 0))  # equal to no tensor's device
    assert trained(make_parts()) == whole and len(moved) > 20


def resident(path: Path) -> int:
    """Bytes of a mapped file that count as this process's memory."""
    mappings = re.split(r"^[0-9a-f]+-[0-9a-f]+ ", Path("/proc/self/smaps").read_text(), flags=re.MULTILINE)
    return 1024 * sum(int(re.search(r"Rss: +(\d+)", each)[1]) for each in mappings if str(path) in each)


def reads_of(data: Data, config: TrainConfig) -> list:
    """Functions that read images in each way in which a command does."""
    train, val = data.to(torch.device("cpu")).split(config)
    return [
        lambda: data.fingerprint,
        lambda: data.statistics,
        lambda: list(make_loader(train, 8, AS_TO_TENSOR, 0)),
        lambda: list(evaluation_loader(data.test, AS_TO_TENSOR)),
        lambda: val.labelled(val.labels)[:2],
        lambda: data.test.on_cpu()[1],
    ]


@pytest.mark.slow
@pytest.mark.skipif(not os.path.isdir("/proc/self"), reason="/proc is Linux's")
def test_what_is_read_of_mapped_images_does_not_stay_in_memory(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(files, "MAX_MAPPED", 100_000)  # bytes, less than an image
    config = TrainConfig(dataset=str(made_up.write_photos(tmp_path / "d", red=10, green=10)), image_size=224)
    for _ in range(2):  # new, and from the cache
        data = load_data(config, "")
        (path,) = (tmp_path / "cache" / "neural_lib").iterdir()
        assert resident(path) == 0 and path.stat().st_size > 3_000_000
        for read in reads_of(data, config):
            data.train.stored[3].sum()
            assert resident(path) > 0
            read()
            assert resident(path) == 0


@pytest.mark.parametrize("size, count, on_gpu", [
    (16, 250, 250), (32, 250, 250), (64, 250, 250), (65, 94, 250), (224, 7, 127), (2000, 1, 1),
])  # fmt: skip
def test_fewer_large_images_are_scored_together(size, count, on_gpu):
    assert images_module.eval_batch_size(size, torch.device("cpu")) == count
    assert images_module.eval_batch_size(size, torch.device("cuda")) == on_gpu
    loader = evaluation_loader(ImageTensors(torch.zeros(251, 1, 1, size), torch.zeros(251)), AS_TO_TENSOR)
    assert loader.sampler.size(0) == count


def test_a_batch_larger_than_the_training_part_is_refused():
    with pytest.raises(UserError, match="--batch-size 76"):
        split(make_set(), TrainConfig(batch_size=76))


# --- in batches ---


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
    rest, every = labels_of(resumed), labels_of(whole)
    assert len(every) == 4 and rest == every[2:]
    for loader in (resumed, whole):
        loader.sampler.set_epoch(4)
    assert labels_of(resumed) == labels_of(whole)


def test_a_distortion_gets_epoch_step_and_size_of_each_batch():
    seen = []

    def distortion(images, epoch, step, global_batch_size):
        seen.append((len(images), epoch, step, global_batch_size))
        return images

    loader = make_loader(make_set(), 30, AS_TO_TENSOR, shuffle_seed=1, distortion=distortion)
    loader.sampler.set_epoch(2, 1)
    labels_of(loader)
    assert seen == [(30, 2, 1, 30), (30, 2, 2, 30), (10, 2, 3, 10)]
