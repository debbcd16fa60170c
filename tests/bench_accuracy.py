"""How accurate a command is over seeds: train.py from its command line to its files, once for each seed.

    python tests/bench_accuracy.py --seeds 1 2 3 -- --data data --dataset kmnist --arch vgg-small --recipe best

The options after -- are train.py's. Prints a line for each seed, then means with standard deviations of the
sample and medians with ranges.
"""

import argparse
import json
import os
import platform
import re
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def run(seed: int, options: list[str]) -> dict[str, float]:
    """Train with that seed; returns accuracies and times from the log, report.json and results.json.

    User images are decoded anew each time, as at the first start of a command.
    """
    with tempfile.TemporaryDirectory() as folder:
        outputs = ("--model", f"{folder}/model.pth", "--plot", f"{folder}/plot.png")
        began = time.perf_counter()
        command = [sys.executable, str(ROOT / "train.py"), *options, "--seed", str(seed), *outputs]
        environment = os.environ | {"XDG_CACHE_HOME": f"{folder}/cache"}
        log = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, env=environment).stdout
        total = time.perf_counter() - began
        report = json.loads(Path(folder, "report.json").read_text())
        rows = json.loads(Path(folder, "results.json").read_text())["rows"]
    return {
        "seed": seed,
        "epoch": report["epoch"],
        "validation": next(row["val_accuracy"] for row in rows if row["epoch"] == report["epoch"]),
        "test": report["accuracy"],
        "test macro F1": report["macro avg"]["f1-score"],
        "training": float(re.search(r"train the model: ([\d.]+)s", log)[1]),
        "whole": round(total, 1),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("options", nargs="*", help="train.py's options, after --")
    args = parser.parse_args()
    rows = []
    for seed in args.seeds:
        rows.append(run(seed, args.options))
        print(json.dumps(rows[-1]), flush=True)
    for name in ("validation", "test", "test macro F1"):
        values = [row[name] for row in rows]
        deviation = f" +- {statistics.stdev(values):.2%}" if len(values) > 1 else ""
        print(f"{name}: {statistics.mean(values):.2%}{deviation}")
    for name in ("training", "whole"):
        values = [row[name] for row in rows]
        print(f"{name}: {statistics.median(values):.1f} s ({min(values):.1f} to {max(values):.1f})")
    print(f"n = {len(rows)}; {os.cpu_count()} CPUs, Python {platform.python_version()}, {time.strftime('%Y-%m-%d')}")


if __name__ == "__main__":
    main()
