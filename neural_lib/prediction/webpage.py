"""A trained network as one HTML file that reads drawings and pictures in any browser, without a server."""

import hashlib
import json
import logging
import math
import re
import shutil
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.fx import Node
from torch.fx.operator_schemas import normalize_function
from torch.nn.utils.fusion import fuse_conv_bn_weights

from neural_lib.config import PAGE_LIMIT
from neural_lib.data.catalog import DATASETS
from neural_lib.evaluation.html import base64_text, render
from neural_lib.evaluation.scores import standard_error
from neural_lib.prediction.export import DifferenceError, check_same, images_to_check
from neural_lib.prediction.recogniser import Recogniser
from neural_lib.system.environment import usable_cores
from neural_lib.system.errors import RunError, UserError
from neural_lib.system.files import write_file

FOLDER = Path(__file__).parent
ENGINE = ("network.js", "ink.js")  # the scripts that compute, in the page or in a worker
COLLECT = ("archive.js", "collect.js")  # ask for characters and save them; for networks that read writing
MIN_CHECKED, MAX_CHECKED = 20, 200  # images that the page's answers are compared on
CHECK_COST = 1e11  # multiplications that decide how many: they take about a minute in Node.js on one core
MIN_PART = 50  # of those images for each process of Node.js: one takes a second to start with a large network
TOLERANCE = 2e-3  # the largest difference of a probability, 0 to 1: most weights have 16 bits

log = logging.getLogger(__name__)


def export_page(recogniser: Recogniser, path: Path, images: Tensor | None = None, title: str = "") -> None:
    """Write the network as a page, once its script has given the network's answers.

    images: test images of its data set, uint8 (N, C, S, S); default: noise. title: see to_html. The weights have 16
    bits, or 32 if the answers differ with 16. If Node.js isn't installed, a warning says that the page is unchecked.
    Raises UserError if the page can't run the network or would be larger than PAGE_LIMIT, and RunError as verify does.
    """
    for bits in (16, 32):
        model = model_of(recogniser, bits)
        checked, which = images_to_check(recogniser.saved, images, images_checked(model))
        content = to_html(recogniser, model, title).encode()
        if len(content) > PAGE_LIMIT:
            sizes = f"{len(content) / 1e6:.1f} MB, more than the limit of {PAGE_LIMIT / 1e6:.1f} MB"
            raise UserError(f"{path}: the page would have {sizes}; use a smaller network")
        try:
            greatest = verify(recogniser, model, checked)
            break
        except DifferenceError:
            if bits == 32:
                raise
    if greatest is None:
        log.warning("the page is not checked: no program to run its script; install Node.js, or try it in a browser")
    else:
        figures = (len(checked), which, greatest)
        log.info("the same labels in Node.js for %d %s; probabilities differ by at most %.0e", *figures)
    write_file(path, lambda: content)
    log.info("wrote %s (%.1f MB): open it in a browser, or send it to somebody", path, len(content) / 1e6)


def images_checked(model: dict) -> int:
    """The number of images that the page is compared on: fewer for networks that multiply more. model: see model_of."""
    channels, cost = [model["channels"], *(step["shape"][0] for step in model["steps"])], 0
    for step in model["steps"]:
        inputs = channels[step["inputs"][0]]
        inputs_per_output = {"conv2d": inputs, "depthwise": 1, "linear": inputs}.get(step["op"], 0)
        cost += math.prod(step["shape"]) * step.get("kernel", 1) ** 2 * inputs_per_output
    return min(max(int(CHECK_COST / cost), MIN_CHECKED), MAX_CHECKED)


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
        weights += [calibration.directions, calibration.mean]
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
        **_encoded(weights, bits),
    }


def _encoded(tensors: list[Tensor], bits: int) -> dict[str, str]:
    # Weights (rows, ...) and vectors in base64; see network.js. With 16 bits a row of weights is integers up to 32767
    # and a scale: EfficientNet-Lite0's probabilities are off by a tenth of what they are with float16.
    weights, vectors = [], []
    for each in tensors:
        if each.dim() == 1:
            vectors.append(each)
        elif bits == 32:
            weights.append(each)
        else:
            rows = each.flatten(1)
            scales = rows.abs().amax(dim=1) / 32767
            weights.append((rows / scales[:, None]).nan_to_num().round().to(torch.int16))  # 0 / 0 in a row of zeros
            vectors.append(scales)
    kinds = {"weights": (weights, "<i2" if bits == 16 else "<f4"), "vectors": (vectors, "<f4")}
    return {
        name: base64_text(b"".join(each.numpy().astype(kind).tobytes() for each in given))
        for name, (given, kind) in kinds.items()
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
    # the step whose output a value is
    numbers: dict[Node, int] = {node: 0 for node in program.graph.nodes if node.name in signature.user_inputs}
    for node in program.graph.nodes:
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
            "weight": Tensor(shape=(filters, depth, kernel, width)),
            "bias": Tensor() | None,
            "stride": [stride, across],
            "padding": [padding, beside],
            "dilation": [1, 1],
            "groups": groups,
        } if (kernel, stride, padding) == (width, across, beside) and (groups == 1 or (groups, depth) == (filters, 1)):
            sizes = {"kernel": kernel, "stride": stride, "padding": padding}
            return {"op": "conv2d" if groups == 1 else "depthwise", "weights": _weights(arguments), **sizes}
        case "batch_norm.default", {"training": False, "running_mean": Tensor(), "running_var": Tensor()} if (
            str(inputs[0].target) == "aten.conv2d.default" and len(inputs[0].users) == 1
        ):
            normalisation = [arguments[name] for name in ("running_mean", "running_var", "eps", "weight", "bias")]
            source["weights"] = list(fuse_conv_bn_weights(*source["weights"], *normalisation))
            return {"op": "nothing"}  # the convolution before it does it
        case "linear.default", {"weight": Tensor(), "bias": Tensor() | None} if len(_shape(inputs[0])) == 2:
            return {"op": "linear", "weights": _weights(arguments)}
        case "relu.default" | "relu_.default", _:
            return {"op": "relu"}
        case (
            "hardtanh.default" | "hardtanh_.default",
            {"min_val": int() | float() as low, "max_val": int() | float() as high},
        ) | ("clamp.default" | "clamp_.default", {"min": int() | float() as low, "max": int() | float() as high}):
            return {"op": "clamp", "min": low, "max": high}
        case "relu6.default" | "relu6_.default", _:
            return {"op": "clamp", "min": 0, "max": 6}
        case ("pad.default", {"pad": [left, right, top, bottom], "mode": "constant", "value": 0 | None}) | (
            "constant_pad_nd.default",
            {"pad": [left, right, top, bottom], "value": 0},
        ) if min(left, right, top, bottom) >= 0 and len(_shape(node)) == 4:
            return {"op": "pad", "left": left, "top": top}
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


def to_html(recogniser: Recogniser, model: dict, title: str = "") -> str:
    """The page as HTML. model: see model_of. title: default: one that names the data set."""
    saved, info = recogniser.saved, DATASETS.get(recogniser.saved.dataset)
    scripts = ["webpage.js", "drawing.js" if saved.placement else "photos.js"]
    scripts += COLLECT if saved.is_of_writing else ()
    return render(
        FOLDER / "webpage.html.jinja",
        saved,
        info=info,
        title=title,
        test_images=saved.training.get("test_images", info.test_size if info else None),  # older files don't say it
        standard_error=standard_error,
        parameters=sum(each.numel() for each in recogniser.model.parameters()),
        model=model,
        engine=_script(*ENGINE),
        script=_script(*scripts),
        csp_hash=_hash,
    )


def _script(*names: str) -> str:
    return "".join((FOLDER / name).read_text(encoding="utf-8") for name in names)


def _hash(text: str) -> str:
    # the name of a script or a style in a Content-Security-Policy
    return f"sha256-{base64_text(hashlib.sha256(text.encode()).digest())}"


# --- the check before the page is written ---


def verify(recogniser: Recogniser, model: dict, images: Tensor) -> float | None:
    """Check in Node.js that the page's script gives the network's answers.

    model: see model_of. images: (N, C, S, S), uint8. Returns and raises what check_same does, but None if there is no
    Node.js; raises RunError if the script fails.
    """
    if not (node := shutil.which("node") or shutil.which("nodejs")):
        return None
    log.info("running the page's network in Node.js on %d images...", len(images))
    parts = images.split(max(MIN_PART, math.ceil(len(images) / usable_cores())))
    with ThreadPoolExecutor(len(parts)) as pool:  # each waits for a process
        answers = [answer for part in pool.map(lambda part: _answers_in(node, model, part), parts) for answer in part]
    return check_same("Node.js", recogniser.probabilities(images), torch.tensor(answers), TOLERANCE)


def _answers_in(node: str, model: dict, images: Tensor) -> list[list[float]]:
    # The probabilities (N, classes) that network.js gives in Node.js; a number that JSON lacks is NaN.
    script = f"""{_script("network.js")}
        const network = new Network({json.dumps(model)}), size = {images[0].numel()};
        const bytes = Buffer.from("{base64_text(images.contiguous().numpy().tobytes())}", "base64");
        const answers = Array.from({{length: {len(images)}}}, (_, i) =>
          network.answer(bytes.subarray(i * size, (i + 1) * size)).probabilities);
        process.stdout.write(JSON.stringify(answers));
    """
    done = subprocess.run([node, "-"], input=script, capture_output=True, encoding="utf-8")
    try:
        return [[math.nan if each is None else each for each in answer] for answer in json.loads(done.stdout)]
    except ValueError:
        error = re.search(r"^\w*Error.*", done.stderr, re.MULTILINE)
        reason = error[0] if error else done.stdout.strip()[:200] or f"exit status {done.returncode}"
        raise RunError(f"Node.js can't run the page's script ({reason}); nothing written") from None
