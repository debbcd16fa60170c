"""A trained network as one HTML file that reads drawings and pictures in any browser, without a server.

webpage.html.jinja is the page. Its scripts: network.js runs the network, ink.js makes a picture into an image of the
data set, webpage.js does what happens on the page.
"""

import base64
import hashlib
import json
import logging
import math
import re
import shutil
import subprocess
import tempfile
from pathlib import Path

import jinja2
import torch
from torch import Tensor, nn
from torch.fx import Node
from torch.nn.utils.fusion import fuse_conv_bn_weights

from neural_lib.config import PREPARING, TrainConfig, format_value, option_name
from neural_lib.data.catalog import DATASETS, title_of
from neural_lib.prediction.export import DifferenceError, check_same, images_to_check
from neural_lib.prediction.recogniser import Recogniser
from neural_lib.system.errors import RunError, UserError
from neural_lib.system.files import write_file

FOLDER = Path(__file__).parent
SCRIPTS = ("network.js", "ink.js", "webpage.js")  # one after the other
MAX_SIZE = 20_000_000  # bytes of the page
CHECKED = 200  # images
TOLERANCE = 2e-3  # what a probability may differ by: the weights are in float16
CHECK_TIMEOUT = 300  # seconds
FLOATS = {16: torch.float16, 32: torch.float32}  # by bits
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "chrome")
# no sandbox, for root has none; what runs is this project's own, and loads nothing
BROWSER_FLAGS = ("--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking")

log = logging.getLogger(__name__)


def export_page(recogniser: Recogniser, path: Path, images: Tensor | None = None) -> None:
    """Write the network as a page, once its script gives the same answers as the network, if anything here runs it.

    images: test images of its data set, uint8 (N, C, S, S); noise where not given. Its weights have 16 bits, or 32 if
    the answers differ otherwise. Raises UserError if the page can't run the network or would be larger than MAX_SIZE,
    and RunError if the answers differ; then nothing is written.
    """
    images, which = images_to_check(recogniser.saved, images, CHECKED)
    for bits in (16, 32):
        model = model_of(recogniser, bits)
        content = to_html(recogniser, model).encode()
        if len(content) > MAX_SIZE:
            size, limit = (f"{each / 1e6:.1f} MB" for each in (len(content), MAX_SIZE))
            raise UserError(
                f"{path}: the page would have {size}, more than the limit of {limit}; use a smaller network"
            )
        try:
            greatest, runner = verify(recogniser, model, images)
            break
        except DifferenceError:
            if bits == 32:
                raise
    if runner:
        figures = (runner, len(images), which, greatest)
        log.info("the same labels in %s for %d %s; probabilities differ by at most %.0e", *figures)
    else:
        log.warning("the page is not checked: nothing here can run its script; install Node.js, or try it in a browser")
    write_file(path, lambda: content)
    log.info("wrote %s (%.1f MB): open it in a browser, or send it to somebody", path, len(content) / 1e6)


# --- the network ---


def model_of(recogniser: Recogniser, bits: int = 16) -> dict:
    """All that the page's scripts need of a network, as JSON's types; see network.js.

    bits: of a weight, 16 or 32. Raises UserError if the network needs an operation that network.js doesn't have.
    """
    saved, calibration = recogniser.saved, recogniser.calibration
    image = torch.zeros(1, len(saved.mean), saved.image_size, saved.image_size)
    steps, weights = steps_of(recogniser.model, image)
    distance = None
    if calibration.has_distance:
        weights += [calibration.mean, calibration.directions]
        distance = {
            "features": len(calibration.mean),
            "directions": len(calibration.directions),
            **{name: getattr(calibration, name) for name in ("outside", "highest", "threshold")},
        }
    return {
        "classes": saved.classes,
        "glyphs": saved.glyphs,
        "channels": len(saved.mean),
        "image_size": saved.image_size,
        "mean": saved.mean,
        "std": saved.std,
        "placement": saved.placement or None,
        "fit": saved.fit,
        "temperature": calibration.temperature,
        "min_probability": recogniser.min_probability,
        "distance": distance,
        "steps": steps,
        "bits": bits,
        "weights": base64.b64encode(
            b"".join(each.to(FLOATS[bits]).numpy().astype(f"<f{bits // 8}").tobytes() for each in weights)
        ).decode(),
    }


def steps_of(model: nn.Module, image: Tensor) -> tuple[list[dict], list[Tensor]]:
    """What a network does to an image (1, C, H, W), up to its logits, as network.js's steps, and the weights in order.

    torch.export gives its operations whatever way the network is written. Raises UserError for one that network.js
    doesn't have.
    """
    program = torch.export.export(model, (image,))
    signature = program.graph_signature
    names = {**signature.inputs_to_parameters, **signature.inputs_to_buffers}
    tensors = {node: program.state_dict[name].detach() for node, name in names.items() if name in program.state_dict}
    numbers: dict[Node, int] = {}  # of values: 0 is the image, n the output of the nth step
    steps, weights = [], []  # of each step the weight and the bias, or neither
    for node in program.graph.nodes:
        if node.op == "placeholder" and node.name in signature.user_inputs:
            numbers[node] = 0
        if node.op != "call_function" or not node.users:  # the latter are checks of a tensor's type
            continue
        given = _arguments(node)
        own = [tensors.get(getattr(given.get(name), "name", None)) for name in ("weight", "bias")]
        takes = [given[name] for name in ("input", "self", "other") if isinstance(given.get(name), Node)]
        if not all(each in numbers for each in takes):
            raise _refusal(node)  # a weight, or a constant, as a value
        more = {}  # numbers that the step needs besides
        match str(node.target), given:
            case "aten.conv2d.default", {"stride": [s, t], "padding": [p, q], "dilation": [1, 1], "groups": 1} if (
                (s, p) == (t, q) and own[0] is not None and own[0].size(2) == own[0].size(3)
            ):
                op, more = "conv2d", {"kernel": own[0].size(2), "stride": s, "padding": p}
            case "aten.batch_norm.default", {"input": conv, "training": False} if (
                len(conv.users) == 1 and str(conv.target) == "aten.conv2d.default" and given["running_mean"]
            ):
                statistics = [tensors.get(given[name].name) for name in ("running_mean", "running_var")]
                step = numbers[conv]
                weights[step - 1] = list(fuse_conv_bn_weights(*weights[step - 1], *statistics, given["eps"], *own))
                numbers[node] = step
                continue
            case "aten.linear.default", {"input": vector} if vector.meta["val"].dim() == 2 and own[0] is not None:
                op = "linear"
            case (("aten.relu.default" | "aten.relu_.default"), _):
                op = "relu"
            case "aten.max_pool2d.default", {"kernel_size": [k, m], "padding": [0, 0] | 0, "dilation": [1, 1] | 1} if (
                k == m and given["stride"] in ([], [k, k]) and not given["ceil_mode"]
            ):
                op, more = "max_pool2d", {"kernel": k, "stride": k}
            case "aten.amax.default", {"dim": [2, 3]}:
                op = "global_max"
            case ("aten.mean.dim", {"dim": [2, 3]}) | ("aten.adaptive_avg_pool2d.default", {"output_size": [1, 1]}):
                op = "global_mean"
            case (("aten.add.Tensor" | "aten.add_.Tensor"), {"alpha": 1}) if (
                len(takes) == 2 and takes[0].meta["val"].shape == takes[1].meta["val"].shape
            ):
                op = "add"
            case "aten.flatten.using_ints", {"start_dim": 1, "end_dim": -1}:
                op = "flatten"
            case ("aten.dropout.default", {"train": False}) | ("aten.to.dtype", {"dtype": torch.float32}):
                numbers[node] = numbers[takes[0]]  # which do nothing here
                continue
            case "aten.log_softmax.int", {"dim": 1 | -1} if (
                steps
                and steps[numbers[takes[0]] - 1]["op"] == "linear"
                and {each.op for each in node.users} == {"output"}
            ):
                break
            case _:
                raise _refusal(node)
        steps.append(
            {"op": op, "inputs": [numbers[each] for each in takes], "shape": list(node.meta["val"].shape[1:]), **more}
        )
        weights.append(own if op in ("conv2d", "linear") else [])
        numbers[node] = len(steps)
    else:
        raise UserError("the page needs a network that ends in a log-softmax; export it to a file in .onnx")
    biased = [[weight, torch.zeros(len(weight)) if bias is None else bias] for weight, bias in filter(None, weights)]
    return steps, [each for pair in biased for each in pair]


def _refusal(node: Node) -> UserError:
    return UserError(f"the page can't run {node.target} as this network has it; export it to a file in .onnx")


def _arguments(node: Node) -> dict[str, object]:
    # by their names, with defaults
    named = {}
    for place, each in enumerate(node.target._schema.arguments):
        value = node.args[place] if place < len(node.args) else node.kwargs.get(each.name, each.default_value)
        named[each.name] = list(value) if isinstance(value, list | tuple) else value  # fx has lists of its own
    return named


# --- the page ---


def to_html(recogniser: Recogniser, model: dict) -> str:
    """The page. model: as model_of returns it."""
    saved = recogniser.saved
    defaults = TrainConfig().to_dict()
    return _environment.get_template("webpage.html.jinja").render(
        saved=saved,
        title=title_of(saved.dataset),
        info=DATASETS.get(saved.dataset),
        parameters=sum(each.numel() for each in recogniser.model.parameters()),
        settings={
            option_name(name): format_value(value)
            for name, value in saved.config.items()
            if value != defaults.get(name) and name not in ("dataset", "arch")
            and (saved.dataset not in DATASETS or name not in PREPARING)
        },
        model=model,
        script=_script(),
    )  # fmt: skip


def _script(names: tuple[str, ...] = SCRIPTS) -> str:
    return "".join((FOLDER / name).read_text(encoding="utf-8") for name in names)


def _hash(text: str) -> str:
    # as a Content-Security-Policy names a script or a style
    return f"sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}"


_environment = jinja2.Environment(
    loader=jinja2.FileSystemLoader(FOLDER),
    autoescape=True,  # names come from data and files
    trim_blocks=True,
    lstrip_blocks=True,
    undefined=jinja2.StrictUndefined,
)
_environment.filters["csp_hash"] = _hash


# --- checked before it is written ---


def verify(recogniser: Recogniser, model: dict, images: Tensor) -> tuple[float, str]:
    """Check that the page's script answers as the network does: the greatest difference of a probability, and what ran.

    images: (N, C, S, S), uint8. It runs in Node.js, else in Chromium, without a window; the second result is empty
    where neither can. Raises RunError if the script fails, and DifferenceError if a label differs or a probability by
    more than TOLERANCE.
    """
    pixels = base64.b64encode(images.contiguous().numpy().tobytes()).decode()
    script = (
        _script(SCRIPTS[:1])
        + f"""
        const network = new Network({json.dumps(model)}), bytes = atob("{pixels}"), size = bytes.length / {len(images)};
        show(JSON.stringify(Array.from({{length: {len(images)}}}, (_, i) =>
          network.answer(Uint8Array.from({{length: size}}, (_, j) => bytes.charCodeAt(i * size + j))).probabilities)));
    """
    )
    for run, runner in ((_run_in_node, "Node.js"), (_run_in_browser, "Chromium")):
        if not (text := run(script)):
            continue
        try:
            answers = [[math.nan if each is None else each for each in answer] for answer in json.loads(text)]
        except ValueError:
            reason = text.strip()[:200]
            raise RunError(f"{runner} can't run the page's script ({reason}); nothing written") from None
        return check_same(runner, recogniser.probabilities(images), torch.tensor(answers), TOLERANCE), runner
    return 0.0, ""


def _run_in_node(script: str) -> str:
    # what the script shows, or why it failed; "" where there is no Node.js
    if not (node := shutil.which("node") or shutil.which("nodejs")):
        return ""
    prelude = """
        const show = (text) => process.stdout.write(text);
        if (!globalThis.atob) globalThis.atob = (text) => Buffer.from(text, "base64").toString("latin1");
    """
    status, output, errors = _run([node, "-"], prelude + script)
    if not status:
        return output
    error = re.search(r"^\w*Error.*", errors, re.MULTILINE)
    return error[0] if error else f"exit status {status}"


def _run_in_browser(script: str) -> str:
    # the same of a browser, and "" also where it doesn't start
    if not (browser := next(filter(None, map(shutil.which, BROWSERS)), None)):
        return ""
    prelude = """<!DOCTYPE html><body><script>
        const show = (text) => { document.body.textContent = text; };
        window.onerror = show;
        </script><script>"""
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        page = Path(folder, "check.html")
        page.write_text(f"{prelude}{script}</script>", encoding="utf-8")
        _, output, _ = _run([browser, *BROWSER_FLAGS, f"--user-data-dir={folder}/user", "--dump-dom", page.as_uri()])
    found = re.search(r"<body>(.*)</body>", output, re.DOTALL)
    return found[1] if found else ""


def _run(command: list[str], given: str = "") -> tuple[int, str, str]:
    # exit status, output and errors
    try:
        done = subprocess.run(command, input=given, capture_output=True, encoding="utf-8", timeout=CHECK_TIMEOUT)
    except subprocess.TimeoutExpired:
        raise RunError(f"{command[0]} took over {CHECK_TIMEOUT} s to check the page; nothing written") from None
    except OSError:  # it is no program
        return 0, "", ""
    return done.returncode, done.stdout, done.stderr
