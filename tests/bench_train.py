"""How long an epoch takes, training and validation: the tutorial's plain loop against train.py's, on real KMNIST.

    python tests/bench_train.py --data data --pairs 5

Both run in this one process, in turn, so that a busy machine slows both; one epoch of each comes first and is not
counted. Included: loading of batches, training on 45,000 images, validation on 15,000. Not included: imports, reading
the files, the test set. The training batches alone, nothing computed, are timed beside it. Prints a table and, as the
last line, the same as JSON.
"""

import argparse
import json
import os
import platform
import statistics
import sys
import time
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from tutorial import PlainLoop

from neural_lib import datasets, runtime
from neural_lib.callbacks import BestEpoch, Progress
from neural_lib.config import TrainConfig
from neural_lib.loaders import ImageTensors, Normalisation, make_loader, split
from neural_lib.models import build_model
from neural_lib.training import fit


class OurLoop:
    """What train.py builds, with its default options, less the saving of the best epoch."""

    def __init__(self, data_dir: str, seed: int, device: torch.device) -> None:
        config = TrainConfig(seed=seed)
        info = datasets.DATASETS["kmnist"]
        images, labels = datasets.load_images("kmnist", data_dir, train=True)
        everything = ImageTensors(images, labels, Normalisation(info.mean, info.std), device)
        train_set, val_set = split(everything, config)
        self.train_loader = make_loader(train_set, config.batch_size, shuffle_seed=seed)
        self.val_loader = make_loader(val_set, config.batch_size)
        torch.manual_seed(seed)
        self.model = build_model(config.arch, numChannels=1, classes=10).to(device)
        self.optimizer = torch.optim.Adam(self.model.parameters(), lr=config.lr, fused=True)
        self.loss_fn = torch.nn.NLLLoss()

    def run_epoch(self) -> float:
        """Train and validate once, with train.py's own callbacks; returns the validation accuracy."""
        best = BestEpoch(self.model, on_improved=lambda state_dict, metrics: None)
        with Progress(epochs=1, train_size=45_000) as progress:
            arguments = (self.model, self.train_loader, self.val_loader, self.loss_fn, self.optimizer)
            return fit(*arguments, epochs=1, callbacks=(progress, best)).val_acc[-1]


def processor_name() -> str:
    cpuinfo = Path("/proc/cpuinfo")  # Linux; platform.processor() says only x86_64 there
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    names = [line.split(":")[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="data", help="folder that holds KMNIST (data)")
    parser.add_argument("--pairs", type=int, default=5, help="counted epochs of each loop (5)")
    parser.add_argument("--device", choices=runtime.DEVICES, default="auto")
    args = parser.parse_args()

    device, _ = runtime.select_device(args.device)
    loops = {"plain": PlainLoop(args.data, 42, device), "ours": OurLoop(args.data, 42, device)}
    seconds = {name: [] for name in loops}
    loading = {name: [] for name in loops}  # the training batches alone, nothing computed
    accuracies = {}
    for turn in range(args.pairs + 1):
        for name, loop in list(loops.items())[:: 1 if turn % 2 else -1]:  # neither is always the second
            start = runtime.now(device)
            accuracies[name] = loop.run_epoch()
            middle = runtime.now(device)
            for _ in loop.train_loader:
                pass
            if turn:  # the first warms up
                seconds[name].append(middle - start)
                loading[name].append(runtime.now(device) - middle)
                print(f"{name:5} epoch {turn}: {seconds[name][-1]:6.2f} s", file=sys.stderr, flush=True)

    print(f"{'loop':8}{'median s':>10}{'min':>8}{'max':>8}{'images/s':>10}{'batches alone s':>17}{'val accuracy':>14}")
    for name, values in seconds.items():
        median = statistics.median(values)
        print(
            f"{name:8}{median:10.2f}{min(values):8.2f}{max(values):8.2f}{60_000 / median:10.0f}"
            f"{statistics.median(loading[name]):17.2f}{accuracies[name]:14.4f}"
        )
    ratios = [ours / plain for plain, ours in zip(*seconds.values(), strict=True)]
    print(f"ours / plain, pair by pair: median {statistics.median(ratios):.3f}, {min(ratios):.3f} to {max(ratios):.3f}")
    result = {
        "benchmark": "epoch of training and validation",
        "seconds": {name: [round(value, 3) for value in values] for name, values in seconds.items()},
        "loading_seconds": {name: [round(value, 3) for value in values] for name, values in loading.items()},
        "ratio_median": round(statistics.median(ratios), 4),
        "device": str(device),
        "processor": processor_name(),
        "cpus": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "date": time.strftime("%Y-%m-%d"),
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
