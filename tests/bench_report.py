"""Seconds that report.html takes, from a trained model and its test images; CPU time of its parts.

    python tests/bench_report.py --model output/model.pth --data data

Heat maps are those of gradcam.heat_maps for 20 images, measured in turn with a forward pass of the same images, with
the check of the data set that the network was trained on, and with the whole report, as predict.py --evaluate writes
it. The imports of matplotlib, scikit-learn and Jinja2 are not counted.
"""

import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch

from neural_lib import checkpoint
from neural_lib.data.images import Normalisation, Parts
from neural_lib.evaluation import report
from neural_lib.evaluation.data_check import check_data
from neural_lib.evaluation.gradcam import heat_maps
from neural_lib.evaluation.scores import score
from neural_lib.prediction.modes import load_test_images

MAPS = 20


def print_in_turn(ways: dict[str, Callable[[], object]], rounds: int) -> None:
    seconds = {name: [] for name in ways}
    for number in range(rounds + 1):  # the first doesn't count
        for name, function in ways.items():
            start = time.process_time()
            function()
            seconds[name] += [time.process_time() - start] * (number > 0)
    for name, values in seconds.items():
        low, middle, high = (1000 * each for each in (min(values), statistics.median(values), max(values)))
        print(f"{name}: {middle:,.1f} ms of the CPU ({low:,.1f} to {high:,.1f}; n = {rounds})")


def print_parts(saved: checkpoint.Checkpoint, parts: Parts, path: Path, rounds: int) -> None:
    model, images = saved.build_model(), parts.test
    some = images.subset(torch.arange(min(MAPS, len(images))) * len(images) // MAPS)
    pixels, labels = some[:]
    inputs = Normalisation(saved.mean, saved.std)(pixels)
    with tempfile.TemporaryDirectory() as folder:
        ways = {
            f"heat maps of {len(labels)} images": lambda: heat_maps(model, inputs, labels),
            "a forward pass of these": torch.inference_mode()(lambda: model(inputs)),
            f"the check of {sum(map(len, filter(None, parts))):,} images": lambda: check_data(saved, model, parts),
            "a whole report": lambda: report.evaluate_model(saved, model, saved.dataset, parts, Path(folder), path),
        }
        print_in_turn(ways, rounds)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="output/model.pth")
    parser.add_argument("--data", default="data")
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()
    saved = checkpoint.load(args.model)
    parts = load_test_images(saved, saved.dataset, args.data, with_train=True)
    images = parts.test
    scores = score(saved, saved.build_model(), images)
    records = report.records_of(saved, Path(args.model).parent)

    def render() -> str:
        return report.Report(saved, saved.dataset, scores, images, records).html()

    size, seconds = len(render().encode()), []
    for _ in range(args.rounds):
        start = time.perf_counter()
        render()
        seconds.append(time.perf_counter() - start)
    print(
        f"{size:,} bytes in {statistics.median(seconds):.2f} s "
        f"({min(seconds):.2f} to {max(seconds):.2f}; n = {args.rounds}; torch {torch.__version__})"
    )
    print_parts(saved, parts, Path(args.model), args.rounds)


if __name__ == "__main__":
    main()
