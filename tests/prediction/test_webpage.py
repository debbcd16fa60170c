"""The network as a web page: its steps, its script in Node.js, its pictures compared with those of ink.py."""

import base64
import html
import json
import logging
import re
import shutil
import subprocess
import unicodedata
import zipfile
from dataclasses import replace
from pathlib import Path

import drawn
import made_up
import numpy as np
import pytest
import torch
from torch import nn

from neural_lib import checkpoint
from neural_lib.data import ink
from neural_lib.data.catalog import Placement, Preparation
from neural_lib.data.images import load_images
from neural_lib.data.pictures import PictureError
from neural_lib.networks import build_network
from neural_lib.prediction import webpage
from neural_lib.prediction.export import noise
from neural_lib.prediction.folders import COMMAND_TABLES, UNSURE, class_folders, portable
from neural_lib.prediction.recogniser import Recogniser
from neural_lib.system.errors import RunError, UserError

needs_node = pytest.mark.skipif(not shutil.which("node"), reason="Node.js is not installed: apt-get install nodejs")
NAMES = ['<b>&"', "it's", "{{ 1 }}", "</script><script>alert(1)</script>", "é ü", "a name of several words"]


def recogniser_of(arch: str, channels: int = 1, classes: int = 10, size: int = 28, **changes) -> Recogniser:
    """Of a network with made-up weights whose answers differ, and whose batch normalisation has something to do."""
    arch_args = {"numChannels": channels, "classes": classes, "image_size": size}
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = build_network(arch, **arch_args)
        for each in network.modules():
            if isinstance(each, nn.BatchNorm2d):
                each.weight.data.uniform_(0.5, 2)
                each.bias.data.normal_()
                each.momentum = 1.0  # the statistics become those of the next batch
        images = (torch.rand(8, 1, 1, 1) * torch.rand(8, channels, size, size) - 0.2) / 0.3
        network.train()(images)
        *_, last = (each for each in network.modules() if isinstance(each, nn.Linear))
        last.weight.data *= 0.4 / network.eval()(images).std(dim=0).mean().detach()
        last.bias.data -= network(images).mean(dim=0).detach()
    saved = replace(
        made_up.make_checkpoint("digits", "lenet-slim"),
        **{"arch": arch, "arch_args": arch_args, "state_dict": network.state_dict(), "image_size": size,
           "classes": [f"class {number}" for number in range(classes)], "mean": [0.2, 0.3, 0.4][:channels],
           "std": [0.3, 0.4, 0.5][:channels], "calibration": {"temperature": 0.8}, **changes},
    )  # fmt: skip
    return Recogniser(saved, torch.device("cpu"))


def recogniser_with(network: nn.Module) -> Recogniser:
    recogniser = recogniser_of("lenet-slim")
    recogniser.model = network.eval()
    return recogniser


def run_node(script: str, **given: object) -> object:
    """What the script, which sees network.js, ink.js, archive.js and `given`, leaves in `result`."""
    names = ", ".join(given)
    whole = f"{webpage._script(*webpage.ENGINE, 'archive.js')}\nconst {{{names}}} = {json.dumps(given)};\n"
    whole += f"let result;\n{script}\n"
    whole += "process.stdout.write(JSON.stringify(result));"
    done = subprocess.run(["node", "-"], input=whole, capture_output=True, encoding="utf-8", timeout=60)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


# --- the network ---


@pytest.mark.few(1)
@needs_node
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("arch", made_up.SMALL_ARCHS)
def test_every_network_gives_the_same_in_the_page(arch, channels):
    recogniser = recogniser_of(arch, channels, classes=49 if channels == 3 else 2, size=32 if channels == 3 else 28)
    images = noise(recogniser.saved, 3)
    images[1:] //= torch.tensor([2, 8], dtype=torch.uint8).view(2, 1, 1, 1)
    assert webpage.verify(recogniser, webpage.model_of(recogniser), images) < webpage.TOLERANCE
    assert recogniser.probabilities(images).std(dim=0).max() > 0.01  # so a constant would be noticed


@pytest.mark.slow
@needs_node
@pytest.mark.parametrize("size", [64, 65, 66, 224])
def test_a_network_for_photos_gives_the_same_in_the_page(size):
    """From 66 pixels padding is uneven, then even; from 64 always uneven, from 65 never."""
    recogniser = recogniser_of("efficientnet-lite0", 3, classes=5, size=size)
    images = noise(recogniser.saved, 3)
    images[1:] //= torch.tensor([2, 8], dtype=torch.uint8).view(2, 1, 1, 1)
    assert webpage.verify(recogniser, webpage.model_of(recogniser, bits=32), images) < 1e-4
    assert recogniser.probabilities(images).std(dim=0).max() > 0.01  # so a constant would be noticed


class EveryOperation(nn.Module):
    """What the project's networks have, written in other ways and with other numbers."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(1, 5, kernel_size=3, stride=2, padding=1)
        self.norm = nn.BatchNorm2d(5, affine=False)
        self.second = nn.Conv2d(5, 5, kernel_size=1)
        self.hidden = nn.Linear(5, 7, bias=False)
        self.out = nn.Linear(7, 10)
        nn.init.uniform_(self.norm.running_mean)

    def forward(self, x):
        x = nn.functional.relu(self.norm(self.first(x)))  # (N, 1, 28, 28) -> (N, 5, 14, 14)
        x = nn.functional.max_pool2d(torch.add(self.second(x), x), 3)  # -> (N, 5, 4, 4), two lines are left over
        x = x + x  # one value twice
        x = x.mean(dim=(2, 3)) + x.amax(dim=(2, 3))  # -> (N, 5)
        return torch.log_softmax(self.out(torch.relu(self.hidden(x))), dim=1)


@pytest.mark.parametrize("placement, default", [
    ({}, "A network looks at pictures: data set"),
    ({"box": 28, "centre": "box", "stroke": 1.5}, "Write, and a network reads: data set"),
])  # fmt: skip
@pytest.mark.parametrize("title", ["", 'Ants & "<bees>"?'])
def test_the_page_has_the_given_title_or_one_that_names_the_data_set(placement, default, title):
    recogniser = recogniser_of("lenet-slim", dataset="/a/data set", placement=placement)
    page = webpage.to_html(recogniser, webpage.model_of(recogniser), title)
    for tag in ("title", "h1"):
        (shown,) = re.findall(f"<{tag}>(.*)</{tag}>", page)
        assert html.unescape(shown) == (title or default) and "<bees>" not in shown


def ending(*layers: nn.Module) -> nn.Module:
    return nn.Sequential(*layers, nn.Flatten(), nn.LazyLinear(10), nn.LogSoftmax(dim=1))


@needs_node
@pytest.mark.parametrize("build", [EveryOperation, lambda: ending(nn.Conv2d(1, 5, kernel_size=1, stride=2))])
def test_it_does_not_matter_how_a_network_is_written(build):
    network = build()
    network(torch.zeros(2, 1, 28, 28))
    recogniser = recogniser_with(network)
    webpage.verify(recogniser, webpage.model_of(recogniser), noise(recogniser.saved, 5))


class EveryOperationForPhotos(nn.Module):
    """A filter for each channel, zeros around an image and limits, written in several ways."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(1, 6, kernel_size=1)
        self.second = nn.Conv2d(6, 6, kernel_size=5, stride=2, padding=1, groups=6)
        self.norm = nn.BatchNorm2d(6)
        self.third = nn.Conv2d(6, 6, kernel_size=(3, 3), groups=6, bias=False)
        self.out = nn.Linear(6, 10)
        nn.init.uniform_(self.norm.running_var)

    def forward(self, x):
        x = nn.functional.pad(self.first(x), (1, 3, 0, 2))  # (N, 1, 28, 28) -> (N, 6, 30, 32)
        x = nn.functional.relu6(self.norm(self.second(x)))  # -> (N, 6, 14, 15)
        x = nn.functional.hardtanh(torch.constant_pad_nd(x, (0, 2, 1, 0)), -0.1, 1.5)  # -> (N, 6, 15, 17)
        x = self.third(x).clamp(-1, 0.8)  # -> (N, 6, 13, 15)
        return self.out(nn.ReLU6(inplace=True)(x).mean(dim=(2, 3))).log_softmax(dim=1)


@needs_node
def test_it_does_not_matter_how_a_network_for_photos_is_written():
    recogniser = recogniser_with(EveryOperationForPhotos())
    images = noise(recogniser.saved, 5)
    images[1:] //= torch.tensor([2, 4, 8, 16], dtype=torch.uint8).view(4, 1, 1, 1)
    assert webpage.verify(recogniser, webpage.model_of(recogniser, bits=32), images) < 1e-6
    ops = {step["op"] for step in webpage.model_of(recogniser)["steps"]}
    assert {"depthwise", "pad", "clamp"} < ops


class Function(nn.Module):
    """A linear layer and log-softmax with something around them."""

    def __init__(self, function) -> None:
        super().__init__()
        self.function, self.constant = function, torch.ones(1, 784)
        self.weight, self.linear = nn.Parameter(torch.ones(1, 784)), nn.Linear(784, 10)

    def forward(self, x):
        return self.function(self, x.flatten(1))


class NormalisedLate(nn.Module):
    """Uses a convolution's output also without the batch normalisation after it."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm, self.out = nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.LazyLinear(10)

    def forward(self, x):
        x = self.conv(x)
        return self.out((x + self.norm(x)).flatten(1)).log_softmax(dim=1)


@pytest.mark.few(8)
@pytest.mark.parametrize(
    ("network", "name"),
    [
        (ending(nn.GELU()), "aten.gelu.default"),
        (ending(nn.Conv2d(1, 4, 3), nn.Conv2d(4, 4, 3, groups=2)), "aten.conv2d.default"),
        (ending(nn.Conv2d(1, 4, 3), nn.Conv2d(4, 8, 3, groups=4)), "aten.conv2d.default"),
        (ending(nn.Conv2d(1, 4, 3, dilation=2)), "aten.conv2d.default"),
        (ending(nn.Conv2d(1, 4, (3, 5))), "aten.conv2d.default"),
        (ending(nn.Conv2d(1, 4, 3, padding="same")), "aten.conv2d.padding"),
        (ending(nn.MaxPool2d(3, padding=1)), "aten.max_pool2d.default"),
        (ending(nn.MaxPool2d(3, ceil_mode=True)), "aten.max_pool2d.default"),
        (ending(nn.AdaptiveAvgPool2d(2)), "aten.adaptive_avg_pool2d.default"),
        (ending(nn.ConstantPad2d(1, value=1.0)), "aten.pad.default"),
        (ending(nn.ZeroPad2d((-1, 1, 0, 0))), "aten.pad.default"),
        (ending(nn.ReflectionPad2d(1)), "aten.pad.default"),
        (Function(lambda self, x: self.linear(x.clamp(min=0)).log_softmax(dim=1)), "aten.clamp.default"),
        (ending(nn.BatchNorm2d(1)), "aten.batch_norm.default"),
        (NormalisedLate(), "aten.batch_norm.default"),
        (ending(nn.BatchNorm2d(1, track_running_stats=False)), "aten.batch_norm.default"),
        (ending(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4, track_running_stats=False)), "aten.batch_norm.default"),
        (ending(nn.Linear(28, 5)), "aten.linear.default"),
        (nn.Sequential(nn.Flatten(), nn.LazyLinear(10), nn.ReLU(), nn.LogSoftmax(dim=1)), "aten.log_softmax.int"),
        (Function(lambda self, x: self.linear(x).log_softmax(dim=0)), "aten.log_softmax.int"),
        (Function(lambda self, x: self.linear(x).log_softmax(dim=1).flip(1)), "aten.log_softmax.int"),
        (Function(lambda self, x: self.linear(x + self.weight).log_softmax(dim=1)), "aten.add.Tensor"),
        (Function(lambda self, x: self.linear(x + self.constant).log_softmax(dim=1)), "aten.add.Tensor"),
        (Function(lambda self, x: self.linear(x + 1.0).log_softmax(dim=1)), "aten.add.Tensor"),
        (
            Function(
                lambda self, x: self.linear(x * nn.functional.dropout(self.weight, 0.5, False)).log_softmax(dim=1)
            ),
            "aten.dropout.default",
        ),
        (Function(lambda self, x: self.linear(x.int().float()).log_softmax(dim=1)), "aten.to.dtype"),
        (
            Function(lambda self, x: self.linear(nn.functional.dropout(x, 0.5)).log_softmax(dim=1)),
            "aten.dropout.default",
        ),
    ],
)
def test_an_operation_that_the_page_lacks_is_refused_by_name(network, name):
    network(torch.zeros(2, 1, 28, 28))
    with pytest.raises(UserError, match=f"^the page can't run {re.escape(name)} as this network has it; "):
        webpage.model_of(recogniser_with(network))


@needs_node
def test_answers_are_as_unsure_in_the_page(digits_model):
    recogniser = Recogniser.load(digits_model, "cpu")
    digits = load_images("digits", "", train=False).images[:60]
    images = torch.cat([digits, noise(recogniser.saved, 30), 255 - digits[:30]])
    probabilities, is_unlike = recogniser.answers_of(images)
    assert 20 < is_unlike.sum() < 100
    script = "const network = new Network(model); result = images.map((image) => network.answer(image));"
    model, pixels = webpage.model_of(recogniser), images.flatten(1).tolist()
    answers = run_node(script, model=model, images=pixels)
    assert [each["isUnlike"] for each in answers] == is_unlike.tolist()
    assert np.allclose([each["probabilities"] for each in answers], probabilities, atol=webpage.TOLERANCE)


@needs_node
@pytest.mark.parametrize("bits", [16, 32])
def test_the_page_has_the_weights_of_the_network(bits):
    recogniser = recogniser_with(EveryOperationForPhotos())
    recogniser.model.first.weight.data[0] = 0
    script = """const {steps} = new Network(model);
        result = steps.filter(({weight}) => weight).flatMap(({weight, bias}) => [[...weight], [...bias]]);"""
    _, expected = webpage.steps_of(recogniser.model, torch.zeros(1, 1, 28, 28))
    found = run_node(script, model=webpage.model_of(recogniser, bits))
    for weight, in_page in zip(expected, found, strict=True):
        rows = weight.reshape(len(weight), -1)
        step = rows.abs().amax(dim=1, keepdim=True) / 32767 if bits == 16 and weight.dim() > 1 else 0
        assert ((torch.tensor(in_page).view(rows.shape) - rows).abs() <= 0.501 * step).all()


# --- pictures ---


def pictures() -> list[np.ndarray]:
    """Digits as people photograph and scan them, blank pages, and pictures of a few pixels."""
    generator = np.random.default_rng(0)
    digits = load_images("digits", "", train=False).images[:, 0].numpy()
    found = [np.repeat(image[..., None], 3, axis=2) for image in digits[:6]]
    found.append(generator.integers(0, 256, (20, 45, 3)).astype(np.uint8))  # narrower and higher in 32x32
    for number, size in enumerate([40, 120, 250] * 3):
        shade, noise_of = ((0.0, 0.0), (80.0, 0.0), (80.0, 6.0))[number // 3]
        found.append(drawn.picture(digits[number], size, generator, number % 2 == 0, shade=shade, noise=noise_of))
    found += [drawn.skeleton(digits[number], 250, 4) for number in range(20, 24)]
    found += [drawn.character(text, generator) for text in "おきすつ"]
    framed = np.full((120, 100, 3), 255, np.uint8)
    framed[:4], framed[-4:], framed[:, :4], framed[:, -4:] = 0, 0, 0, 0
    framed[40:80, 45:54], framed[60:75, 40:70] = 0, 0  # where its centre of mass is, no rounding decides
    blank, grain = np.full((60, 80, 3), 200, np.uint8), generator.integers(190, 210, (90, 90, 3)).astype(np.uint8)
    hook = [[9, 0, 0, 9, 0], [0, 255, 0, 0, 9], [0, 255, 190, 255, 0], [0, 0, 0, 9, 0]]
    tiny = [np.array(each, np.uint8)[..., None].repeat(3, axis=2) for each in ([[255]], [[255], [9]], hook)]
    return [*found, framed, blank, grain, *tiny]


STROKES, GARMENTS = Preparation(28, 1, Placement(28, "box", stroke=1.55)), Preparation(28, 1, Placement(28, "box"))
DIGITS = Preparation(28, 1, Placement(20, "mass", stroke=2.0))


@pytest.mark.few(1)
@needs_node
@pytest.mark.parametrize(
    ("how", "invert"),
    [
        pytest.param(STROKES, "auto", id="strokes"),
        pytest.param(STROKES, "yes", id="dark"),
        pytest.param(STROKES, "no", id="light"),
        pytest.param(DIGITS, "auto", id="mass"),
        pytest.param(GARMENTS, "auto", id="garments"),
        pytest.param(Preparation(32, 3, None, "crop"), "auto", id="crop"),
        pytest.param(Preparation(32, 1, None, "pad"), "auto", id="pad"),
        pytest.param(Preparation(32, 3, None, "stretch"), "auto", id="stretch"),
    ],
)  # fmt: skip
def test_a_picture_becomes_the_same_image_in_the_page(how, invert):
    given, expected = pictures(), []
    for picture in given:
        try:
            expected.append(ink.prepare(picture, how, invert).flatten().astype(int))
        except PictureError:
            expected.append(None)
    rgba = [np.dstack([picture, np.full(picture.shape[:2], 255, np.uint8)]) for picture in given]
    found = run_node(
        """result = pictures.map(({width, height, data}) => {
            const bytes = Uint8Array.from(atob(data), (byte) => byte.charCodeAt(0));
            const pixels = prepare({width, height, data: bytes}, how, invert);
            return pixels && Array.from(pixels);
        });""",
        pictures=[
            {"width": each.shape[1], "height": each.shape[0], "data": base64.b64encode(each.tobytes()).decode()}
            for each in rgba
        ],
        how={"image_size": how.image_size, "channels": how.channels, "fit": how.fit,
             "placement": how.placement._asdict() if how.placement else None},
        invert=invert,
    )  # fmt: skip
    assert [each is None for each in found] == [each is None for each in expected]
    differences = [np.abs(here - there) for here, there in zip(found, expected, strict=True) if here is not None]
    # grey levels; a stroke's edge is up to this far off where single and double precision round differently
    assert max(each.mean() for each in differences) < 0.5 and max(each.max() for each in differences) < 40
    assert np.median([each.max() for each in differences]) <= 1


# --- a zip of drawings ---


@needs_node
def test_folders_have_the_names_that_folders_py_gives():
    generator, marks = (
        np.random.default_rng(0),
        ["a", "A", "é", "e\u0301", ".", " ", "/", "-1", "con", "か" * 40, "\x00"],
    )
    marks += ["\ud800", "🙂", "\u202eא", "COM٣", "x.png", ".tar" * 6, "unsure", "ß", "SS", "ı", "I", "İ", "ς", "Σ", "_"]
    lists = [["".join(generator.choice(marks, generator.integers(0, 7))) for _ in range(12)] for _ in range(300)]
    lists.append([UNSURE, *COMMAND_TABLES])
    # each character that changes with its case, of a version of Unicode that every Python and every Node.js knows
    characters = [chr(code) for code in range(0x20000) if unicodedata.ucd_3_2_0.category(chr(code)) not in ("Cn", "Cs")]
    lists.append([each for each in characters if len({each, each.casefold(), each.upper(), each.lower()}) > 1])
    assert len(lists[-1]) > 1500
    found = run_node("result = lists.map((each) => [classFolders(each), each.map(portable)]);", lists=lists)
    assert found == [[class_folders(each), list(map(portable, each))] for each in lists]


def unzipped(files: dict[str, bytes], tmp_path: Path) -> zipfile.ZipFile:
    """The zip that archive.js makes of files, opened."""
    text = run_node(
        """const files = given.map(([name, text]) => ({name, content: Buffer.from(text, "base64")}));
        result = Buffer.concat(zip(files, new Date(2026, 10, 30, 23, 59, 58))).toString("base64");""",
        given=[[name, base64.b64encode(content).decode()] for name, content in files.items()],
    )
    (tmp_path / "drawings.zip").write_bytes(base64.b64decode(text))
    return zipfile.ZipFile(tmp_path / "drawings.zip")


@needs_node
@pytest.mark.parametrize(
    "files",
    [
        pytest.param({}, id="empty"),
        pytest.param({"a/1.png": b"", "あ/ß-1.png": bytes(range(256)), "🙂/1.png": b"\xff" * 70_000}, id="odd"),
        pytest.param({f"{number % 47}/{number}.png": b"%d" % number * 500 for number in range(3000)}, id="many"),
    ],
)
def test_a_zip_holds_the_files_under_their_names(files, tmp_path):
    with unzipped(files, tmp_path) as archive:
        assert archive.testzip() is None
        assert {info.filename: archive.read(info) for info in archive.infolist()} == files
        for info in archive.infolist():
            assert info.flag_bits == 1 << 11 and info.compress_type == zipfile.ZIP_STORED  # names in UTF-8
            assert info.date_time == (2026, 11, 30, 23, 59, 58) and not info.is_dir()


@pytest.mark.slow
@needs_node
def test_what_does_not_fit_into_a_zip_is_refused():
    script = """const content = new Uint8Array(), files = Array.from({length: 65536}, () => ({name: "a", content}));
        try { zip(files); } catch (error) { result = error.message; }"""
    assert run_node(script) == "too many drawings for one zip"


# --- the page ---


def html_of(recogniser: Recogniser) -> str:
    """The page without its weights."""
    return webpage.to_html(recogniser, webpage.model_of(recogniser) | {"weights": ""})


def test_names_are_text_and_nothing_else():
    text = html_of(named())
    assert "<b>" not in text and text.count("<script") == text.count("</script>") == 3
    model = json.loads(re.search(r'id="model">(.*?)</script>', text)[1])
    assert model["classes"] == NAMES


def named() -> Recogniser:
    recogniser = recogniser_of("lenet-slim", classes=len(NAMES))
    return Recogniser(replace(recogniser.saved, classes=NAMES, dataset="/home/anna/<i>own</i>"), recogniser.device)


@pytest.mark.parametrize("placement", [{}, {"box": 28, "centre": "box", "stroke": 1.5}])
def test_its_policy_allows_its_own_script_and_style_and_nothing_else(placement):
    text = html_of(recogniser_of("lenet-slim", placement=placement))
    policy = re.search(r'Content-Security-Policy" content="([^"]*)"', text)[1]
    rules = dict(each.split(maxsplit=1) for each in policy.split(";"))
    assert rules["default-src"] == "'none'" and rules["img-src"] == "data:"
    for kind in ("script", "style"):
        contents = re.findall(rf"<{kind}(?: id=\"engine\")?>(.*?)</{kind}>", text, re.DOTALL)
        assert rules[f"{kind}-src"].split() == [f"'{webpage._hash(each)}'" for each in contents]
    assert rules.get("worker-src") == (None if placement else "blob:")
    assert not re.search(r'(?:src|href)="(?!data:)', text) and not re.search(r"\son\w+=", text)


def test_it_says_what_the_network_is_and_what_it_scored(digits_model):
    recogniser = Recogniser.load(digits_model, "cpu")
    text = html_of(recogniser)
    accuracy = f"{100 * recogniser.saved.metrics['test_accuracy']:.2f}&nbsp;%"
    assert accuracy in text and "431,080 parameters" in text and "--epochs 5" in text and "unlike" in text
    assert "Write one character here" in text and "ruled paper" in text
    assert "Of 297 test images" in text and "points, standard error)" in text
    assert recogniser.saved.training["test_images"] == 297
    assert "Alpaydin and Kaynak" in text and "CC BY 4.0" in text and "nothing leaves your device" in text


def test_it_says_how_far_the_accuracy_may_be_off():
    photos = replace(named().saved, metrics={"test_accuracy": 0.94}, training={"test_images": 153})
    text = " ".join(html_of(Recogniser(photos, torch.device("cpu"))).split())
    assert "Of 153 test images it gets 94.00&nbsp;% right (±&nbsp;2.0 points, standard error)." in text
    older = Recogniser(replace(photos, training={}), torch.device("cpu"))  # whose file doesn't say how many there were
    assert "Of the test images it gets 94.00&nbsp;% right. " in " ".join(html_of(older).split())


def test_it_names_no_folder_of_this_machine():
    recogniser = named()
    secret = {name: "/home/anna/secret" for name in ("command", "data", "init")}
    text = html_of(Recogniser(replace(recogniser.saved, training=secret), recogniser.device))
    assert "<i>own</i>" not in text and "anna" not in text and "secret" not in text


def test_it_says_only_what_is_true_of_the_network():
    text = html_of(recogniser_of("lenet-slim"))  # whose calibration knows no distance
    assert "unlike" not in text.split("<script")[0]
    garments = replace(recogniser_of("lenet-slim").saved, placement=Placement(28, "box")._asdict())
    text = html_of(Recogniser(garments, torch.device("cpu")))
    assert "Draw here" in text and "character" not in text.split("<script")[0]


@pytest.mark.parametrize(("stroke", "is_there"), [(1.5, True), (0.0, False), (None, False)])
def test_only_characters_are_collected(stroke, is_there):
    placement = {} if stroke is None else Placement(28, "box", stroke)._asdict()
    text = html_of(recogniser_of("lenet-slim", placement=placement))
    assert ('id="collect"' in text, "classFolders" in text, "<label>" in text) == (is_there,) * 3


# --- export_page ---


@pytest.fixture
def export_to(tmp_path):
    def export_to(recogniser: Recogniser, images: torch.Tensor | None = None) -> Path:
        webpage.export_page(recogniser, tmp_path / "page.html", images)
        return tmp_path / "page.html"

    return export_to


@needs_node
def test_it_is_written_once_it_was_compared_on_test_images(export_to, caplog):
    caplog.set_level(logging.INFO)
    recogniser = recogniser_of("lenet-slim")
    assert 'id="sheet"' in export_to(recogniser, noise(recogniser.saved, 500)).read_text()
    assert "the same labels in Node.js for 200 test images of digits; probabilities differ by at most " in caplog.text


@pytest.mark.slow
@needs_node
def test_a_page_that_answers_otherwise_is_not_written(export_to, tmp_path, monkeypatch):
    recogniser, probabilities = recogniser_of("lenet-slim"), Recogniser.probabilities
    assert export_to(recogniser).exists()
    (tmp_path / "page.html").unlink()
    monkeypatch.setattr(Recogniser, "probabilities", lambda self, images: probabilities(self, images).roll(1, 1))
    with pytest.raises(RunError, match=r"^in \S+ \d+ of 200 predictions differ, .*; nothing written$"):
        export_to(recogniser)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
@needs_node
def test_weights_that_16_bits_do_not_hold_have_32_bits(export_to, caplog):
    caplog.set_level(logging.INFO)
    recogniser = recogniser_of("lenet-slim")
    assert '"bits": 16' in export_to(recogniser).read_text()
    with torch.no_grad():
        recogniser.model.conv2.bias[0] = -1e6  # so that its pixels are 0, whatever they are multiplied with
        recogniser.model.fc1.weight[:, 0] = 1e6  # beside which the other weights are less than a step of 16 bits
    assert '"bits": 32' in export_to(recogniser).read_text()
    assert caplog.text.count("the same labels in Node.js for 200 images of noise (no digits here); ") == 2


@pytest.mark.slow
@needs_node
def test_a_network_without_numbers_is_not_written(export_to, tmp_path):
    recogniser = recogniser_of("lenet-slim")
    with torch.no_grad():
        recogniser.model.fc1.bias[3] = torch.nan
    with pytest.raises(RunError, match="differ by up to nan; nothing written$"):
        export_to(recogniser)
    assert list(tmp_path.iterdir()) == []


@needs_node
@pytest.mark.parametrize("number", [1, 2])
def test_networks_of_earlier_versions_are_exported(export_to, number):
    saved = checkpoint.load(Path(__file__).parents[1] / f"model-format-{number}.pth")
    assert export_to(Recogniser(saved, torch.device("cpu"))).exists()


@needs_node
@pytest.mark.parametrize(
    ("script", "error"),
    [
        ("class Network { answer() { return undefinedName; } }", "ReferenceError: undefinedName is not defined"),
        ("class Network {{", "SyntaxError: "),
    ],
)
def test_a_script_that_fails_is_one_line(export_to, tmp_path, monkeypatch, script, error):
    monkeypatch.setattr(webpage, "_script", lambda *names: script)
    with pytest.raises(RunError, match=rf"^Node.js can't run the page's script \(.*{error}.*\);"):
        export_to(recogniser_of("lenet-slim"))
    assert list(tmp_path.iterdir()) == []


def program(path: Path, text: str) -> Path:
    path.write_text(text)
    path.chmod(0o755)
    return path


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("#!/bin/sh\necho hello\n", r"Node.js can't run the page's script \(hello\); nothing written"),
        ("#!/bin/sh\nexit 3\n", r"Node.js can't run the page's script \(exit status 3\); nothing written"),
    ],
)
def test_a_node_that_is_none_is_one_line(export_to, tmp_path, monkeypatch, text, message):
    node = program(tmp_path / "node", text)
    monkeypatch.setattr(webpage.shutil, "which", lambda name: str(node) if name == "node" else None)
    with pytest.raises(RunError, match=message):
        export_to(recogniser_of("lenet-slim"))
    assert list(tmp_path.iterdir()) == [node]


def test_without_anything_to_run_it_the_page_is_said_to_be_unchecked(export_to, monkeypatch, caplog):
    monkeypatch.setattr(webpage.shutil, "which", lambda name: None)
    assert export_to(recogniser_of("lenet-slim")).exists()
    assert "the page is not checked: no program to run its script" in caplog.text


def test_a_network_that_is_too_large_is_refused_with_its_size(export_to, tmp_path, monkeypatch):
    monkeypatch.setattr(webpage, "PAGE_LIMIT", 200_000)
    with pytest.raises(UserError, match=r"page\.html: the page would have \d\.\d MB, more than the limit of 0\.2 MB;"):
        export_to(recogniser_of("lenet"))
    assert list(tmp_path.iterdir()) == []


@needs_node
@pytest.mark.slow
def test_the_largest_network_becomes_a_page(export_to, caplog):
    caplog.set_level(logging.INFO)
    recogniser = recogniser_of("resnet18")
    assert export_to(recogniser, noise(recogniser.saved, 20)).stat().st_size < webpage.PAGE_LIMIT
    assert "in Node.js for 20 test images" in caplog.text


@pytest.mark.slow
def test_a_page_for_photos_has_at_most_14_mb_and_is_compared_on_200_images():
    recogniser = recogniser_of("efficientnet-lite0", 3, size=224)
    model = webpage.model_of(recogniser)
    assert len(webpage.to_html(recogniser, model).encode()) < 14e6
    assert webpage.images_checked(model) == 200


@pytest.mark.parametrize(("filters", "count"), [(1, 200), (1400, 165), (20_000, 20)])
def test_fewer_images_are_compared_of_a_network_that_computes_more(filters, count):
    model = {
        "channels": 50,
        "steps": [
            {"op": "depthwise", "inputs": [0], "shape": [50, 40, 50], "kernel": 5},  # 2.5 million multiplications
            {"op": "conv2d", "inputs": [1], "shape": [filters, 40, 50], "kernel": 2},  # 0.4 million per filter
            {"op": "global_max", "inputs": [2], "shape": [100]},
            {"op": "linear", "inputs": [3], "shape": [400_000]},  # 40 million
        ],
    }
    assert webpage.images_checked(model) == count
