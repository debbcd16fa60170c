"""Seconds that report.html takes, from a trained model and its test images.

    python tests/bench_report.py --model output/model.pth --data data

The imports of matplotlib, scikit-learn and Jinja2 are not counted.
"""

import argparse
import statistics
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch

from neural_lib import checkpoint
from neural_lib.data.images import load_images
from neural_lib.evaluation import report
from neural_lib.evaluation.scores import score


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="output/model.pth")
    parser.add_argument("--data", default="data")
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()
    saved = checkpoint.load(args.model)
    images = load_images(saved.dataset, args.data, train=False)
    scores = score(saved, saved.build_model(), images)
    records = report.records_of(saved, Path(args.model).parent)

    def render() -> str:
        return report.Report(saved, saved.dataset, scores, images.images, records).html()

    size, seconds = len(render().encode()), []
    for _ in range(args.rounds):
        start = time.perf_counter()
        render()
        seconds.append(time.perf_counter() - start)
    print(
        f"{size:,} bytes in {statistics.median(seconds):.2f} s "
        f"({min(seconds):.2f} to {max(seconds):.2f}; n = {args.rounds}; torch {torch.__version__})"
    )


if __name__ == "__main__":
    main()
