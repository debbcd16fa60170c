import os
import pickle
from dataclasses import replace

import pytest
import torch
from conftest import ROOT, rewrite

from neural_lib import checkpoint, datasets
from neural_lib.checkpoint import Checkpoint
from neural_lib.config import TrainConfig
from neural_lib.errors import UserError
from neural_lib.lenet import LeNet
from neural_lib.loaders import Normalisation
from neural_lib.models import build_model


@pytest.fixture
def saved() -> Checkpoint:
    torch.manual_seed(0)
    arch_args = {"numChannels": 1, "classes": 10, "image_size": 28}
    return Checkpoint(
        arch="lenet",
        arch_args=arch_args,
        state_dict=build_model("lenet", **arch_args).state_dict(),
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
    checkpoint.save(saved, tmp_path / "model.pth")
    loaded = checkpoint.load(tmp_path / "model.pth")
    with torch.inference_mode():
        assert torch.equal(loaded.build_model()(images), saved.build_model()(images))
    assert not loaded.build_model().training
    for name in ("arch", "arch_args", "dataset", "classes", "image_size", "mean", "std", "config", "metrics"):
        assert getattr(loaded, name) == getattr(saved, name)
    assert loaded.versions["torch"] == torch.__version__


def test_the_file_holds_tensors_and_plain_types_alone(saved, tmp_path):
    checkpoint.save(saved, tmp_path / "model.pth")
    content = torch.load(tmp_path / "model.pth", weights_only=True)
    assert (content["format"], content["format_version"]) == ("neural_lib checkpoint", 2)
    assert LeNet(1, 10).load_state_dict(content["state_dict"]).missing_keys == []


class Attack:
    """What an attacker would put into a model file: unpickling it makes a folder."""

    def __init__(self, path) -> None:
        self.path = str(path)

    def __reduce__(self):
        return os.mkdir, (self.path,)


def _whole_module(path, tmp_path):
    torch.save(LeNet(1, 10), path)  # as the tutorial does


def _malicious(path, tmp_path):
    torch.save({"format": checkpoint.KIND.format, "state_dict": Attack(tmp_path / "owned")}, path)


def _malicious_pickle(path, tmp_path):
    path.write_bytes(pickle.dumps(Attack(tmp_path / "owned")))


def _malicious_legacy(path, tmp_path):
    torch.save(Attack(tmp_path / "owned"), path, _use_new_zipfile_serialization=False)


def _empty(path, tmp_path):
    path.touch()


def _text(path, tmp_path):
    path.write_text("this is no model\n" * 100)


def _state_dict_alone(path, tmp_path):
    torch.save(LeNet(1, 10).state_dict(), path)


def _folder(path, tmp_path):
    path.mkdir()


def _nothing(path, tmp_path):
    pass


@pytest.mark.parametrize("make, message", [
    (_nothing, "can't be read .No such file or directory.; train a network first"),
    (_folder, "can't be read .Is a directory.; train a network first"),
    (_whole_module, "holds pickled Python objects.*nothing in it was run"),
    (_malicious, "holds pickled Python objects.*nothing in it was run"),
    (_malicious_pickle, "nothing in it was run"),
    (_malicious_legacy, "nothing in it was run"),
    (_empty, "is damaged, cut short or no checkpoint"),
    (_text, "is damaged, cut short or no checkpoint"),
    (_state_dict_alone, "is no checkpoint of train.py"),
])  # fmt: skip
def test_another_file_is_refused_and_nothing_in_it_runs(tmp_path, make, message):
    path = tmp_path / "model.pth"
    make(path, tmp_path)
    with pytest.raises(UserError, match=message) as caught:
        checkpoint.load(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "owned").exists()


def test_the_attack_of_these_tests_is_a_real_one(tmp_path):
    _malicious(tmp_path / "model.pth", tmp_path)
    torch.load(tmp_path / "model.pth", weights_only=False)
    assert (tmp_path / "owned").is_dir()


@pytest.mark.parametrize("share", [0.0005, 0.3, 0.999])
def test_a_truncated_checkpoint_is_refused(saved, tmp_path, share):
    path = tmp_path / "model.pth"
    checkpoint.save(saved, path)
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])
    with pytest.raises(UserError, match="is damaged, cut short or no checkpoint"):
        checkpoint.load(path)


def test_a_later_format_is_refused_by_its_number(saved, tmp_path, monkeypatch):
    monkeypatch.setattr(checkpoint, "KIND", replace(checkpoint.KIND, version=3))
    checkpoint.save(saved, tmp_path / "model.pth")
    monkeypatch.undo()
    with pytest.raises(UserError, match="has checkpoint format 3, and this version reads format 1 and 2"):
        checkpoint.load(tmp_path / "model.pth")


@pytest.mark.parametrize("change, name", [
    ({"classes": "0123456789"}, "classes"),
    ({"classes": list(range(10))}, "classes"),
    ({"arch": None}, "arch"),
    ({"mean": ["x"]}, "mean"),
    ({"std": [0.1, 0.2]}, "std"),
    ({"glyphs": ["お"]}, "glyphs"),
    ({"image_size": 10**9}, "image_size"),
])  # fmt: skip
def test_a_field_that_holds_something_else_is_named(saved, tmp_path, change, name):
    checkpoint.save(replace(saved, **change), tmp_path / "model.pth")
    with pytest.raises(UserError, match=f"something else than a checkpoint's own in {name}"):
        checkpoint.load(tmp_path / "model.pth")


def test_a_field_of_a_later_version_may_be_missing_or_unknown(saved, tmp_path):
    checkpoint.save(saved, tmp_path / "model.pth")
    rewrite(tmp_path / "model.pth", {"heard_of_later": 1}, without=["glyphs"])
    assert checkpoint.load(tmp_path / "model.pth").glyphs == []
    rewrite(tmp_path / "model.pth", {}, without=["state_dict"])
    with pytest.raises(UserError, match="is an incomplete checkpoint"):
        checkpoint.load(tmp_path / "model.pth")


@pytest.mark.parametrize("version, epoch", [(1, 6), (2, 5)])  # 1: without a checksum
def test_a_model_of_every_format_that_there_has_been_is_read(version, epoch):
    # vgg-small of width 1 after so many epochs on the digits
    path = ROOT / "tests" / f"model-format-{version}.pth"
    assert torch.load(path, weights_only=True)["format_version"] == version
    old = checkpoint.load(path)
    assert (old.arch, old.dataset, old.metrics["epoch"]) == ("vgg-small", "digits", epoch)
    images, labels = datasets.load_images("digits", "nowhere", train=False)
    with torch.inference_mode():
        predictions = old.build_model()(Normalisation(old.mean, old.std)(images)).argmax(dim=1)
    assert (predictions == labels).float().mean().item() == pytest.approx(old.metrics["test_accuracy"], abs=0.01)


def test_a_class_is_written_with_its_character_where_it_has_one(saved):
    assert saved.written(7) == "7"
    assert replace(saved, classes=["o", "ki"], glyphs=["お", "き"]).written(1) == "ki き"


@pytest.mark.parametrize("change", [
    {"arch": "unheard-of"},
    {"arch_args": {"numChannels": 1, "classes": 7}},
    {"arch_args": {"colour": "red"}},
    {"state_dict": {}},
    {"classes": ["only", "two"]},
    {"image_size": 32},
    {"mean": [0.1, 0.2, 0.3]},
])  # fmt: skip
def test_parts_that_do_not_fit_each_other_are_refused(saved, change):
    with pytest.raises(UserError, match="the checkpoint doesn't fit together: network"):
        replace(saved, **change).build_model()


def test_an_interrupted_save_keeps_the_model_before(saved, tmp_path, monkeypatch):
    path = tmp_path / "model.pth"
    checkpoint.save(saved, path)
    before = path.read_bytes()

    def die_before_it_is_all_on_disk(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", die_before_it_is_all_on_disk)
    with pytest.raises(OSError):
        checkpoint.save(saved, path)
    assert path.read_bytes() == before
    assert os.listdir(tmp_path) == ["model.pth"]


@pytest.mark.parametrize("training", [{"data": 5}, {"processes": "two"}, {"val_images": None}, ["data"]])
def test_what_is_told_of_the_training_has_the_right_types(saved, tmp_path, training):
    checkpoint.save(replace(saved, training=training), tmp_path / "model.pth")
    with pytest.raises(UserError, match="something else than a checkpoint's own in training"):
        checkpoint.load(tmp_path / "model.pth")


def test_what_will_be_replaced_is_told_in_one_line(saved, tmp_path):
    path = tmp_path / "model.pth"
    assert checkpoint.replacement_warning(path, "now") == ""
    checkpoint.save(replace(saved, metrics={"epoch": 1, "test_accuracy": 0.25}), path)
    assert "test accuracy 0.2500; this run replaces it, its records and its report now" in (
        checkpoint.replacement_warning(path, "now")
    )
    path.write_bytes(path.read_bytes()[:-9])
    assert "holds a damaged model file" in checkpoint.replacement_warning(path, "now")
