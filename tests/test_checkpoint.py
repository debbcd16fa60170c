import io
import os
import pickle
import random
import zipfile
from dataclasses import replace

import pytest
import torch
from conftest import ROOT, rewrite

from neural_lib import checkpoint
from neural_lib.checkpoint import Checkpoint, FileFormat, archive_bytes, load_archive
from neural_lib.config import TrainConfig
from neural_lib.data.catalog import DATASETS
from neural_lib.data.images import Normalisation, load_images
from neural_lib.lenet import LeNet
from neural_lib.networks import build_network
from neural_lib.system.errors import UserError
from neural_lib.training.progress import STATE_FORMAT

# --- archives ---

THING = FileFormat(
    name="neural_lib thing", version=2, readable=(1, 2), noun="thing", option="--thing", if_missing="make one",
    if_damaged="make another", without_checksum=(1,),
)  # fmt: skip
CONTENT = {"weights": torch.arange(300.0), "names": ["a", "b"]}


@pytest.fixture
def archive(tmp_path):
    """The path of a file with CONTENT."""
    path = tmp_path / "thing.pth"
    path.write_bytes(archive_bytes(CONTENT, THING))
    return path


def test_an_archive_is_read_as_it_was_written(archive):
    content = load_archive(archive, THING)
    assert torch.equal(content["weights"], torch.arange(300.0)) and content["names"] == ["a", "b"]
    assert (content["format"], content["format_version"]) == ("neural_lib thing", 2)


def test_an_archive_is_a_zip_file_that_torch_reads(archive):
    assert torch.equal(torch.load(archive, weights_only=True)["weights"], torch.arange(300.0))
    assert zipfile.ZipFile(archive).testzip() is None
    assert zipfile.ZipFile(archive).comment.startswith(b"neural_lib sha256 ")


def test_a_flipped_bit_is_noticed(archive):
    whole, generator = archive.read_bytes(), random.Random(0)
    for position in [*range(0, len(whole), 5), *range(len(whole) - 120, len(whole))]:  # the latter: the checksum
        flipped = bytearray(whole)
        flipped[position] ^= 1 << generator.randrange(8)
        archive.write_bytes(flipped)
        with pytest.raises(UserError, match="--thing .*thing.pth: "):
            load_archive(archive, THING)


def test_torch_alone_would_not_notice_a_flipped_bit_in_the_weights(archive):
    whole = bytearray(archive.read_bytes())
    whole[whole.index(torch.arange(300.0).numpy().tobytes()) + 40] ^= 1
    assert not torch.equal(torch.load(io.BytesIO(whole), weights_only=True)["weights"], torch.arange(300.0))


def test_a_truncated_archive_is_refused(archive):
    whole = archive.read_bytes()
    for length in [*range(0, len(whole), 200), *range(len(whole) - 120, len(whole), 7)]:
        archive.write_bytes(whole[:length])
        with pytest.raises(UserError, match="is damaged"):
            load_archive(archive, THING)


def test_only_versions_older_than_the_checksum_may_lack_it(archive):
    torch.save({"format": THING.name, "format_version": 1, "names": []}, archive)
    assert load_archive(archive, THING)["names"] == []
    torch.save({"format": THING.name, "format_version": 2, "names": []}, archive)
    with pytest.raises(UserError, match="is damaged or was changed: it lacks its checksum"):
        load_archive(archive, THING)


def test_an_archive_of_another_format_is_refused(archive):
    other = THING._replace(name="neural_lib other", noun="other", option="--other", if_missing="make another")
    with pytest.raises(UserError, match="--other .*thing.pth: holds data, but is no other of train.py; make another"):
        load_archive(archive, other)


# --- checkpoints ---

CALIBRATION = {
    "temperature": 0.5, "mean": torch.zeros(500), "directions": torch.eye(500)[:2], "outside": [0.5, 0.1],
    "highest": [4.0, 1.0], "threshold": 5.0,
}  # fmt: skip


@pytest.fixture
def saved() -> Checkpoint:
    torch.manual_seed(0)
    arch_args = {"numChannels": 1, "classes": 10, "image_size": 28}
    return Checkpoint(
        arch="lenet",
        arch_args=arch_args,
        state_dict=build_network("lenet", **arch_args).state_dict(),
        dataset="digits",
        classes=list("0123456789"),
        image_size=28,
        mean=[0.3],
        std=[0.4],
        config=TrainConfig().to_dict(),
        metrics={"epoch": 3, "val_accuracy": 0.5},
    )


def test_a_loaded_network_computes_bit_for_bit_what_the_saved_one_did(saved, tmp_path):
    images = torch.rand(16, 1, 28, 28)
    (tmp_path / "model.pth").write_bytes(saved.to_bytes())
    loaded = checkpoint.load(tmp_path / "model.pth")
    with torch.inference_mode():
        assert torch.equal(loaded.build_model()(images), saved.build_model()(images))
    assert not loaded.build_model().training
    for name in ("arch", "arch_args", "dataset", "classes", "image_size", "mean", "std", "config", "metrics"):
        assert getattr(loaded, name) == getattr(saved, name)
    assert loaded.versions["torch"] == torch.__version__


def test_the_file_holds_tensors_and_plain_types_alone(saved, tmp_path):
    (tmp_path / "model.pth").write_bytes(saved.to_bytes())
    content = torch.load(tmp_path / "model.pth", weights_only=True)
    assert (content["format"], content["format_version"]) == ("neural_lib checkpoint", 2)
    assert LeNet(1, 10).load_state_dict(content["state_dict"]).missing_keys == []


class Attack:
    """A harmful object for a model file: unpickling it makes a folder."""

    def __init__(self, folder) -> None:
        self.folder = str(folder)

    def __reduce__(self):
        return os.mkdir, (self.folder,)


def malicious(path) -> dict:
    """The content of a model file with an Attack that makes the folder "owned" beside it."""
    return {"format": checkpoint.MODEL_FORMAT.name, "state_dict": Attack(path.with_name("owned"))}


@pytest.mark.parametrize("make, message", [
    (lambda path: None, "can't be read .No such file or directory.; train a network first"),
    (lambda path: path.mkdir(), "is a folder, not a file; train a network first"),
    (lambda path: torch.save(LeNet(1, 10), path), "holds pickled Python objects.*nothing in it was run"),
    (lambda path: torch.save(malicious(path), path), "holds pickled Python objects.*nothing in it was run"),
    (lambda path: torch.save(malicious(path), path, _use_new_zipfile_serialization=False), "nothing in it was run"),
    (lambda path: path.write_bytes(pickle.dumps(malicious(path))), "nothing in it was run"),
    (lambda path: path.touch(), "is damaged, cut short or no model file"),
    (lambda path: path.write_text("this is no model\n" * 100), "is damaged, cut short or no model file"),
    (lambda path: torch.save(LeNet(1, 10).state_dict(), path), "holds weights alone, no classes; train.py --init"),
    (lambda path: torch.save({}, path), "holds data, but is no model file of train.py; train a network first"),
    (lambda path: path.write_bytes(archive_bytes({}, STATE_FORMAT)), "is the training state, .*; give .* model.pth"),
], ids=["none", "folder", "module", "attack", "old", "pickle", "empty", "text", "weights", "{}", "state"])  # fmt: skip
def test_another_file_is_refused_and_nothing_in_it_runs(tmp_path, make, message):
    path = tmp_path / "model.pth"
    make(path)
    with pytest.raises(UserError, match=message) as caught:
        checkpoint.load(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "owned").exists()


def test_the_attack_of_these_tests_works_without_protection(tmp_path):
    torch.save(malicious(tmp_path / "model.pth"), tmp_path / "model.pth")
    torch.load(tmp_path / "model.pth", weights_only=False)
    assert (tmp_path / "owned").is_dir()


def test_a_later_format_is_refused_by_its_number(saved, tmp_path):
    later = checkpoint.MODEL_FORMAT._replace(version=3)
    (tmp_path / "model.pth").write_bytes(archive_bytes(vars(saved), later))
    with pytest.raises(UserError, match="has model file format 3, and this version reads format 1 and 2"):
        checkpoint.load(tmp_path / "model.pth")


def test_fields_with_defaults_may_be_missing_and_unknown_fields_are_ignored(saved, tmp_path):
    (tmp_path / "model.pth").write_bytes(saved.to_bytes())
    rewrite(tmp_path / "model.pth", {"unknown": 1}, without=["glyphs"])
    assert checkpoint.load(tmp_path / "model.pth").glyphs == []
    rewrite(tmp_path / "model.pth", {}, without=["state_dict"])
    with pytest.raises(UserError, match="is an incomplete model file"):
        checkpoint.load(tmp_path / "model.pth")


@pytest.mark.parametrize("calibration", [{}, {"temperature": 2.0}, CALIBRATION, {**CALIBRATION, "unknown": "x"}])
def test_a_calibration_is_read_as_it_was_written(saved, tmp_path, calibration):
    (tmp_path / "model.pth").write_bytes(replace(saved, calibration=calibration).to_bytes())
    loaded = checkpoint.load(tmp_path / "model.pth")
    assert loaded.calibration.keys() == calibration.keys() and loaded.build_model()
    for name, value in loaded.calibration.items():
        assert torch.equal(value, calibration[name]) if isinstance(value, torch.Tensor) else value == calibration[name]


@pytest.mark.parametrize("version, epoch", [(1, 6), (2, 5)])  # 1: without a checksum
def test_models_of_all_formats_are_read(version, epoch):
    # vgg-small of width 1, trained on the digits
    path = ROOT / "tests" / f"model-format-{version}.pth"
    assert torch.load(path, weights_only=True)["format_version"] == version
    old = checkpoint.load(path)
    assert old.calibration == {}
    assert (old.arch, old.dataset, old.metrics["epoch"]) == ("vgg-small", "digits", epoch)
    images, labels = load_images("digits", "nowhere", train=False)[:]
    with torch.inference_mode():
        predictions = old.build_model()(Normalisation(old.mean, old.std)(images)).argmax(dim=1)
    assert (predictions == labels).float().mean().item() == pytest.approx(old.metrics["test_accuracy"], abs=0.01)


def test_a_display_name_ends_in_the_class_character_if_there_is_one(saved):
    assert saved.display_name(7) == "7"
    assert replace(saved, classes=["o", "ki"], glyphs=["お", "き"]).display_name(1) == "ki き"


@pytest.mark.parametrize("change, message", [
    ({"arch": "tiny"}, "there is no network 'tiny' in this version; use the code that trained it, or train again"),
    ({"arch_args": {"numChannels": 1, "classes": 7}}, "'lenet' isn't the code .* size mismatch for fc2"),
    ({"arch_args": {"colour": "red"}}, "'lenet' isn't the code that was trained: .* unexpected keyword"),
    ({"state_dict": {}}, "'lenet' isn't the code that was trained: .* Missing key.*; use the code that trained it, or"),
])  # fmt: skip
def test_a_network_whose_code_has_changed_is_named(saved, change, message):
    with pytest.raises(UserError, match=message):
        replace(saved, **change).build_model()


@pytest.mark.parametrize("change", [
    {"classes": ["only", "two"]},
    {"image_size": 32},
    {"mean": [0.1, 0.2, 0.3]},
])  # fmt: skip
def test_parts_that_do_not_fit_each_other_are_refused(saved, change):
    with pytest.raises(UserError, match="the model file doesn't fit together: network"):
        replace(saved, **change).build_model()


def test_a_model_file_is_described_in_a_phrase(saved, tmp_path):
    path = tmp_path / "model.pth"
    assert checkpoint.describe(path) == ("", "")  # the file is missing
    path.write_bytes(saved.to_bytes())
    assert checkpoint.describe(path) == ("digits", "lenet trained on digits, not scored on its test set")
    path.write_bytes(replace(saved, metrics={"epoch": 1, "test_accuracy": 0.25}).to_bytes())
    assert checkpoint.describe(path) == ("digits", "lenet trained on digits, test accuracy 0.2500")
    path.write_bytes(path.read_bytes()[:-9])
    assert checkpoint.describe(path) == ("unknown", "a damaged model file")


def test_a_checkpoint_without_weights_has_all_but_these_and_metrics():
    config, arch_args = TrainConfig(epochs=3), {"numChannels": 1, "classes": 10, "image_size": 28}
    made = checkpoint.without_weights(config, DATASETS["kmnist"], arch_args, ([0.2], [0.3]), {"device": "cpu"})
    assert (made.arch, made.dataset) == ("lenet", "kmnist")
    assert (made.classes[:2], made.glyphs[:2]) == (["o", "ki"], ["お", "き"])
    assert (made.mean, made.std, made.image_size, made.arch_args) == ([0.2], [0.3], 28, arch_args)
    assert (made.config, made.training) == (config.to_dict(), {"device": "cpu"})
    assert (made.state_dict, made.metrics, made.calibration) == ({}, {}, {})
