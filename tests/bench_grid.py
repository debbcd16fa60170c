"""What a grid costs: the README's 8 runs on the real Fashion-MNIST as one command, with TensorBoard, and one by one.

    python tests/bench_grid.py --data data --rounds 3

In each round the grid and its 8 runs alone, without TensorBoard, take turns; whole commands, from their start to their
end. Training is what the runs themselves took: run_duration in results.json. Prints a table and, as the last line, the
same as JSON.
"""

import argparse
import json
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from itertools import product
from pathlib import Path

from bench_train import ROOT, processor_name

COMMON = ("--dataset", "fashion-mnist", "--arch", "lenet-slim", "--epochs", "3", "--quiet")
VALUES = {"--lr": ["0.01", "0.001"], "--batch-size": ["100", "1000"], "--shuffle": ["on", "off"]}


def timed(data_dir: str, *options: str, logdir: bool = False) -> dict[str, float]:
    """Seconds of one command: all of it, and its runs' training."""
    with tempfile.TemporaryDirectory() as folder:
        outputs = ["--model", f"{folder}/model.pth", "--plot", f"{folder}/plot.png"]
        board = ["--logdir", f"{folder}/runs"] if logdir else []
        start = time.perf_counter()
        command = [sys.executable, str(ROOT / "train.py"), *COMMON, "--data", data_dir, *options, *outputs, *board]
        subprocess.run(command, check=True, stderr=subprocess.DEVNULL)
        whole = time.perf_counter() - start
        rows = json.loads(Path(folder, "results.json").read_text())["rows"]
        return {"whole": whole, "training": sum(row["run_duration"] for row in rows if row["epoch"] == row["epochs"])}


def grid(data_dir: str, logdir: bool) -> dict[str, float]:
    return timed(data_dir, *(word for option, values in VALUES.items() for word in (option, *values)), logdir=logdir)


def alone(data_dir: str) -> dict[str, float]:
    runs = [
        timed(data_dir, *(word for pair in zip(VALUES, values, strict=True) for word in pair))
        for values in product(*VALUES.values())
    ]
    return {name: sum(run[name] for run in runs) for name in ("whole", "training")}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="data", help="folder that holds Fashion-MNIST (data)")
    parser.add_argument("--rounds", type=int, default=3, help="times that each is timed (3)")
    args = parser.parse_args()
    kinds = {
        "8 runs alone": lambda: alone(args.data),
        "grid": lambda: grid(args.data, logdir=False),
        "grid, --logdir": lambda: grid(args.data, logdir=True),
    }
    seconds = {kind: [] for kind in kinds}
    for turn in range(args.rounds):
        for kind in list(kinds)[:: 1 if turn % 2 else -1]:
            seconds[kind].append(kinds[kind]())
            print(f"{kind:16} {seconds[kind][-1]}", file=sys.stderr, flush=True)

    result = {"benchmark": "a grid of 8 runs", "processor": processor_name(), "python": platform.python_version()}
    print(f"{'':16}{'whole s':>9}{'of alone':>10}{'training s':>12}{'of alone':>10}   medians, n = {args.rounds}")
    for kind, own in seconds.items():
        row = {}
        for part in ("whole", "training"):
            ratios = [mine[part] / theirs[part] for mine, theirs in zip(own, seconds["8 runs alone"], strict=True)]
            row[part] = round(statistics.median(each[part] for each in own), 2)
            row[f"{part}_ratio"] = round(statistics.median(ratios), 3)
            row[f"{part}_ratio_range"] = [round(min(ratios), 3), round(max(ratios), 3)]
        print(
            f"{kind:16}{row['whole']:9.1f}{row['whole_ratio']:10.3f}{row['training']:12.1f}{row['training_ratio']:10.3f}"
        )
        result[kind] = row
    print(json.dumps(result))


if __name__ == "__main__":
    main()
