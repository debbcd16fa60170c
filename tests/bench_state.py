"""What writing checkpoint.pth costs: seconds and size, for each network.

    python tests/bench_state.py --folder . --rounds 20

The networks in turn, `rounds` times; medians and ranges. Each save is a whole one: taken, written, fsynced, renamed.
"""

import argparse
import os
import platform
import statistics
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch
from one_run import run_of, train_epochs

from neural_lib.config import ARCHS, RECIPES
from neural_lib.data.images import ImageTensors, load_images
from neural_lib.system.files import write_file
from neural_lib.training.progress import Progress
from neural_lib.training.runs import RunManager


def trained(arch: str, folder: Path) -> Progress:
    """A command whose only run has learned an epoch of a few digits, so that its state has every part."""
    images, labels = load_images("digits", folder, train=True)[:]
    config = RECIPES["best"].config(arch=arch, dataset="digits", epochs=2, batch_size=16)
    progress = Progress(RunManager({}, None, [config.to_dict()]), [config])
    progress.begin_run(1, train_epochs(run_of(config, ImageTensors(images[:40], labels[:40])), 1))
    return progress


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", default=".", help="on the disk that is to be measured (%(default)s)")
    parser.add_argument("--rounds", type=int, default=20)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=args.folder) as folder:
        commands = {arch: trained(arch, Path(folder)) for arch in ARCHS}
        seconds = {arch: [] for arch in ARCHS}
        for _ in range(args.rounds):
            for arch, progress in commands.items():
                began = time.perf_counter()
                write_file(Path(folder, arch), progress.to_bytes)
                seconds[arch].append(time.perf_counter() - began)
        for arch, taken in seconds.items():
            size = Path(folder, arch).stat().st_size / 1e6
            low, middle, high = (1000 * each for each in (min(taken), statistics.median(taken), max(taken)))
            print(f"{arch:12} {size:7.1f} MB {middle:7.1f} ms ({low:.1f} to {high:.1f})")
    print(f"n = {args.rounds}; {os.cpu_count()} CPUs, Python {platform.python_version()}, torch {torch.__version__}")


if __name__ == "__main__":
    main()
