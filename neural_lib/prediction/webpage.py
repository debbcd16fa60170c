"""A trained network as one HTML file that reads drawings and pictures in any browser, without a server.

webpage.html.jinja is the page. Its scripts: network.js runs the network, ink.js turns a picture into an image of the
data set, webpage.js handles drawing, pictures and answers.
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
from torch.fx.operator_schemas import normalize_function
from torch.nn.utils.fusion import fuse_conv_bn_weights

from neural_lib.config import PREPARING, TrainConfig, format_value, option_name
from neural_lib.data.catalog import DATASETS, title_of
from neural_lib.prediction.export import DifferenceError, check_same, images_to_check
from neural_lib.prediction.recogniser import Recogniser
from neural_lib.system.errors import RunError, UserError
from neural_lib.system.files import write_file

FOLDER = Path(__file__).parent
SCRIPTS = ("network.js", "ink.js", "webpage.js")  # in the order of the page
MAX_SIZE = 20_000_000  # bytes of the page
CHECKED = 200  # images that the page's answers are compared on
TOLERANCE = 2e-3  # the largest difference of a probability, 0 to 1: the weights are in float16
CHECK_TIMEOUT = 300  # seconds
FLOATS = {16: torch.float16, 32: torch.float32}  # by bits
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "chrome")
# no sandbox: root has none, and the page that runs is written by this module and loads nothing
BROWSER_FLAGS = ("--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking")

log = logging.getLogger(__name__)


def export_page(recogniser: Recogniser, path: Path, images: Tensor | None = None) -> None:
    """Write the network as a page, once its script has given the network's answers.

    images: test images of its data set, uint8 (N, C, S, S); default: noise. The weights have 16 bits, or 32 if the
    answers differ with 16. If neither Node.js nor Chromium is installed, a warning says that the page is unchecked.
    Raises UserError if the page can't run the network or would be larger than MAX_SIZE, and RunError if the script
    fails or the answers differ; then nothing is written.
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
        log.warning("the page is not checked: no program to run its script; install Node.js, or try it in a browser")
    write_file(path, lambda: content)
    log.info("wrote %s (%.1f MB): open it in a browser, or send it to somebody", path, len(content) / 1e6)


# --- the network ---


def model_of(recogniser: Recogniser, bits: int = 16) -> dict:
    """The data of a network for the page's scripts, in JSON's types; see network.js.

    bits: of a weight, 16 or 32. Raises UserError if the network has an operation that network.js lacks.
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
    """The steps of a network on an image (1, C, H, W) up to its logits, for network.js, and their weights in order.

    torch.export lists the same operations however the network is written. Raises UserError for an operation that
    network.js lacks.
    """
    program = torch.export.export(model, (image,))
    signature = program.graph_signature
    names = {**signature.inputs_to_parameters, **signature.inputs_to_buffers}
    tensors = {node: program.state_dict[name].detach() for node, name in names.items() if name in program.state_dict}
    steps = [{"op": "image"}]
    numbers: dict[Node, int] = {}  # the step whose output a value is
    for node in program.graph.nodes:
        if node.op == "placeholder" and node.name in signature.user_inputs:
            numbers[node] = 0
        if node.op != "call_function" or not node.users:  # one without users checks a tensor's type
            continue
        given = normalize_function(node.target, node.args, node.kwargs, normalize_to_only_use_kwargs=True).kwargs
        arguments = {name: tensors.get(getattr(value, "name", None), value) for name, value in given.items()}
        inputs = [arguments[name] for name in ("input", "other") if isinstance(arguments.get(name), Node)]
        step = None
        if inputs and all(each in numbers for each in inputs):  # else it takes a weight or a constant
            step = _step_of(node, arguments, inputs, steps[numbers[inputs[0]]])
        if step is None:
            raise UserError(f"the page can't run {node.target} as this network has it; export it to a file in .onnx")
        if step["op"] == "log_softmax":
            weights = [tensor for each in steps for tensor in each.pop("weights", [])]
            return steps[1:], weights
        if step["op"] == "nothing":
            numbers[node] = numbers[inputs[0]]
            continue
        numbers[node] = len(steps)
        steps.append({**step, "inputs": [numbers[each] for each in inputs], "shape": list(_shape(node)[1:])})
    raise UserError("the page needs a network that ends in a log-softmax; export it to a file in .onnx")


def _step_of(node: Node, arguments: dict[str, object], inputs: list[Node], source: dict) -> dict | None:
    # The step for an operation, as torch.export lists it; None if network.js can't do it with these arguments.
    # arguments: by name; parameters and buffers are tensors. source: the step that gives the first of the inputs.
    match str(node.target).removeprefix("aten."), arguments:
        case "conv2d.default", {
            "weight": Tensor(shape=(_, _, kernel, width)),
            "bias": Tensor() | None,
            "stride": [stride, across],
            "padding": [padding, beside],
            "dilation": [1, 1],
            "groups": 1,
        } if (kernel, stride, padding) == (width, across, beside):
            sizes = {"kernel": kernel, "stride": stride, "padding": padding}
            return {"op": "conv2d", "weights": _weights(arguments), **sizes}
        case "batch_norm.default", {
            "training": False,
            "running_mean": Tensor() as mean,
            "running_var": Tensor() as var,
        }:
            if str(inputs[0].target) != "aten.conv2d.default" or len(inputs[0].users) > 1:
                return None
            normalisation = mean, var, arguments["eps"], arguments["weight"], arguments["bias"]
            source["weights"] = list(fuse_conv_bn_weights(*source["weights"], *normalisation))
            return {"op": "nothing"}  # the convolution before it does it
        case "linear.default", {"weight": Tensor(), "bias": Tensor() | None} if len(_shape(inputs[0])) == 2:
            return {"op": "linear", "weights": _weights(arguments)}
        case "relu.default" | "relu_.default", _:
            return {"op": "relu"}
        case "max_pool2d.default", {
            "kernel_size": [kernel, width],
            "stride": list(stride),
            "padding": [0, 0],
            "dilation": [1, 1],
            "ceil_mode": False,
        } if kernel == width and stride in ([], [kernel, kernel]):
            return {"op": "max_pool2d", "kernel": kernel, "stride": kernel}
        case "amax.default", {"dim": [2, 3]}:
            return {"op": "global_max"}
        case ("mean.dim", {"dim": [2, 3]}) | ("adaptive_avg_pool2d.default", {"output_size": [1, 1]}):
            return {"op": "global_mean"}
        case "add.Tensor" | "add_.Tensor", {"alpha": 1} if [*map(_shape, inputs)] == [_shape(node)] * 2:
            return {"op": "add"}
        case "flatten.using_ints", {"start_dim": 1, "end_dim": -1}:
            return {"op": "flatten"}
        case ("dropout.default", {"train": False}) | ("to.dtype", {"dtype": torch.float32}):
            return {"op": "nothing"}
        case "log_softmax.int", {"dim": 1 | -1} if source["op"] == "linear":
            return {"op": "log_softmax"} if {each.op for each in node.users} == {"output"} else None


def _shape(node: Node) -> torch.Size:
    return node.meta["val"].shape


def _weights(arguments: dict[str, object]) -> list[Tensor]:
    # Weight and bias of a layer, which may have no bias.
    weight, bias = arguments["weight"], arguments["bias"]
    return [weight, torch.zeros(len(weight)) if bias is None else bias]


# --- the page ---


def to_html(recogniser: Recogniser, model: dict) -> str:
    """The page as HTML. model: see model_of."""
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
    # the name of a script or a style in a Content-Security-Policy
    return f"sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}"


_environment = jinja2.Environment(
    loader=jinja2.FileSystemLoader(FOLDER),
    autoescape=True,  # names come from data and files
    trim_blocks=True,
    lstrip_blocks=True,
    undefined=jinja2.StrictUndefined,
)
_environment.filters["csp_hash"] = _hash


# --- the check before the page is written ---


def verify(recogniser: Recogniser, model: dict, images: Tensor) -> tuple[float, str]:
    """Check that the page's script gives the network's answers, in Node.js, else in Chromium without a window.

    images: (N, C, S, S), uint8. Returns the greatest difference of a probability and the name of the program that ran
    the script, empty if neither is installed. Raises RunError if the script fails, and DifferenceError if a label
    differs or a probability differs by more than TOLERANCE.
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
    # the script's output, or the reason of its failure; "" if there is no Node.js
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
    # the script's output, or the reason of its failure; "" if there is no browser or it doesn't start
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
    body = re.search(r"<body>(.*)</body>", output, re.DOTALL)
    return body[1] if body else ""


def _run(command: list[str], stdin: str = "") -> tuple[int, str, str]:
    # exit status, stdout and stderr
    try:
        done = subprocess.run(command, input=stdin, capture_output=True, encoding="utf-8", timeout=CHECK_TIMEOUT)
    except subprocess.TimeoutExpired:
        raise RunError(f"{command[0]} took over {CHECK_TIMEOUT} s to check the page; nothing written") from None
    except OSError:  # the file can't be run
        return 0, "", ""
    return done.returncode, done.stdout, done.stderr
