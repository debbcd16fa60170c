"""How long training takes: the tutorial's plain loop compared with train.py's, on the real KMNIST.

    python tests/bench_train.py --data data --rounds 5
    python tests/bench_train.py --data data --rounds 5 --busy       # beside a process that keeps one core busy
    python tests/bench_train.py --data data --rounds 0 --seeds 5    # whole runs, half an hour on 2 cores

Epochs: each loop has a process of its own, the plain one with nothing but torch's defaults, and they run in turn, one
at a time, so that a busy machine slows all of them; one epoch of each comes first and isn't counted. Included: loading
of batches, training on 45,000 images, validation on 15,000. Not included: imports, reading the files, the test set.
GFLOP/s count the multiplications and additions of convolutions and linear layers (torch's FlopCounterMode), and are
compared with a 2048 x 2048 matrix product of the same type.

Whole runs: for each seed the plain loop for 10 epochs from scratch, and when it has reached --target on the test set,
then train.py with each recipe, from its command line to its files. Prints tables and, as the last line, the same as
JSON.
"""

import argparse
import json
import math
import os
import platform
import re
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from neural_lib.config import RECIPES
from neural_lib.system import environment  # no module that imports torch: each process loads it after tune_for_cpu

ROOT = Path(__file__).resolve().parents[1]
MAX_ROUNDS = 99
PEAK_SIZE = 2048  # of the matrices whose product is the machine's peak
PLAIN_EPOCHS = 10


@dataclass(frozen=True)
class Loop:
    """One kind of loop to be timed."""

    recipe: str = ""  # none: the tutorial's plain loop
    precision: str = "fp32"
    tuned: bool = True  # with environment.tune_for_cpu

    def config(self, seed: int):
        return RECIPES[self.recipe].config(seed=seed, precision=self.precision, epochs=MAX_ROUNDS + 1)


LOOPS = {
    "plain": Loop(tuned=False),
    "classic": Loop("classic"),
    "classic untuned": Loop("classic", tuned=False),
    "classic bf16": Loop("classic", precision="bf16"),
    "best": Loop("best", precision="auto"),
}


# --- in a loop's own process ---


class OurLoop:
    """train.py's run, an epoch at a time, less the saving of the best one."""

    def __init__(self, config, data_dir: str, device) -> None:
        from one_run import run_of

        from neural_lib.data.images import load_images
        from neural_lib.system import devices

        self.precision = devices.select_precision(config.precision, device)
        images = load_images("kmnist", data_dir, train=True).to(device)
        self.run = run_of(replace(config, precision=self.precision), images)
        self.model, self.train_loader = self.run.model, self.run.train_loader

    def run_epoch(self) -> float:
        """Train and validate once, with train.py's own progress bar; returns the validation accuracy."""
        from neural_lib.training.loop import ProgressBar, train_one_epoch, validate

        with ProgressBar().epoch(1, self.run) as bar:
            train_one_epoch(self.run, bar=bar)
            val = validate(self.run)
        self.run.state.end_epoch(val)
        return val.accuracy


def work(name: str, args: argparse.Namespace) -> None:
    """Time an epoch for each line on stdin; answer each with a line of JSON."""
    kind = LOOPS[name]
    if kind.tuned:
        environment.tune_for_cpu()
    import torch

    from neural_lib.system import devices

    device, _ = devices.select_device(args.device)
    if kind.recipe:
        loop = OurLoop(kind.config(seed=42), args.data, device)
        precision = loop.precision
    else:
        from tutorial import PlainLoop

        loop, precision = PlainLoop(args.data, 42, device), "fp32"
    facts = {
        "flop": flop_of_an_epoch(loop.model, device),
        "peak_flops": peak_flops(device, precision),
        "precision": precision,
        "device": str(device),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
    }
    print(json.dumps(facts), flush=True)
    for _ in sys.stdin:
        start = devices.now(device)
        accuracy = loop.run_epoch()
        middle = devices.now(device)
        if kind.recipe:
            loop.train_loader.sampler.set_epoch(1)
        for _ in loop.train_loader:
            pass
        answer = {"epoch": middle - start, "loading": devices.now(device) - middle, "val_accuracy": accuracy}
        print(json.dumps(answer | {"memory": peak_memory(device)}), flush=True)


def flop_of_an_epoch(model, device) -> float:
    """Of 45,000 images forward and backward, and 15,000 forward."""
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    images = torch.zeros(10, 1, 28, 28, device=device)
    with FlopCounterMode(display=False) as training:
        model(images).sum().backward()
    with FlopCounterMode(display=False) as evaluation, torch.no_grad():
        model(images)
    return 4_500 * training.get_total_flops() + 1_500 * evaluation.get_total_flops()


def peak_flops(device, precision: str) -> float:
    """Of the best of 10 products of two square matrices."""
    import torch

    from neural_lib.system import devices

    dtype = {"fp32": torch.float32, "bf16": torch.bfloat16}[precision]
    matrix = torch.ones(PEAK_SIZE, PEAK_SIZE, dtype=dtype, device=device)
    seconds = []
    for _ in range(10):
        start = devices.now(device)
        matrix @ matrix
        seconds.append(devices.now(device) - start)
    return 2 * PEAK_SIZE**3 / min(seconds)


def peak_memory(device) -> float:
    """Bytes: what torch held of the device's memory at most, or the process of the machine's."""
    if device.type == "cuda":
        import torch

        return torch.cuda.max_memory_allocated()
    try:
        import resource  # Unix's
    except ImportError:
        return math.nan
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def train_plainly(seed: int, args: argparse.Namespace) -> None:
    """Train the plain loop from scratch, scoring it on the test set after each epoch; one line of JSON."""
    from torch.utils.data import DataLoader
    from torchvision.datasets import KMNIST
    from torchvision.transforms import ToTensor
    from tutorial import PlainLoop

    from neural_lib.evaluation.scores import evaluate
    from neural_lib.system import devices

    device, _ = devices.select_device(args.device)
    loop = PlainLoop(args.data, seed, device)
    test_loader = DataLoader(KMNIST(args.data, train=False, transform=ToTensor()), batch_size=250)
    test_set = [(images.to(device), labels.to(device)) for images, labels in test_loader]
    setup, seconds, accuracies = time.time() - args.started, [], []
    while len(seconds) < PLAIN_EPOCHS:
        start = devices.now(device)
        loop.run_epoch()
        seconds.append(devices.now(device) - start)
        accuracies.append(evaluate(loop.model, test_set).accuracy)
    epochs = next((n for n, accuracy in enumerate(accuracies, start=1) if accuracy >= args.target), None)
    print(json.dumps({
        "ten_epochs": round(sum(seconds), 2), "test_accuracy": accuracies[-1], "epochs": epochs,
        "train": round(sum(seconds[:epochs]), 2), "total": round(setup + sum(seconds[:epochs]), 2),
    }))  # fmt: skip


# --- in the parent ---


def start(*arguments: object, **options) -> subprocess.Popen:
    command = [sys.executable, __file__, *map(str, arguments)]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, **options)


def time_epochs(names: list[str], args: argparse.Namespace) -> tuple[dict, dict]:
    """What each loop says of itself, and what it answered in each counted round."""
    common = ("--data", args.data, "--device", args.device)
    workers, facts = {}, {}
    for name in names:
        workers[name] = start("--worker", name, *common)
        facts[name] = json.loads(workers[name].stdout.readline())  # not until then does the next one start
    answers = {name: [] for name in names}
    for turn in range(args.rounds + 1):
        for name, worker in list(workers.items())[:: 1 if turn % 2 else -1]:  # none is always the last
            worker.stdin.write("epoch\n")
            worker.stdin.flush()
            answer = json.loads(worker.stdout.readline())
            if turn:  # the first warms up
                answers[name].append(answer)
                print(f"{name:16} epoch {turn}: {answer['epoch']:6.2f} s", file=sys.stderr, flush=True)
    for worker in workers.values():
        worker.communicate()
    return facts, answers


def show_epochs(facts: dict, answers: dict) -> dict:
    """Print the table; returns it, a row for each loop."""
    print(f"{'loop':16}{'median s':>9}{'min':>7}{'max':>7}{'images/s':>9}{'batches s':>10}"
          f"{'GFLOP/s':>8}{'of peak':>8}{'MB':>6}{'times as fast as plain':>26}")  # fmt: skip
    rows = {}
    for name, got in answers.items():
        seconds = [answer["epoch"] for answer in got]
        median = statistics.median(seconds)
        speedups = [plain["epoch"] / own for plain, own in zip(answers["plain"], seconds, strict=True)]
        flops = facts[name]["flop"] / median
        row = rows[name] = {
            **facts[name],
            "seconds": [round(value, 3) for value in seconds],
            "loading_seconds": round(statistics.median(answer["loading"] for answer in got), 3),
            "share_of_peak": round(flops / facts[name]["peak_flops"], 3),
            "memory_mb": round(max(answer["memory"] for answer in got) / 1e6, 1),
            "speedup_median": round(statistics.median(speedups), 3),
            "speedup_range": [round(min(speedups), 3), round(max(speedups), 3)],
        }
        print(f"{name:16}{median:9.2f}{min(seconds):7.2f}{max(seconds):7.2f}{60_000 / median:9.0f}"
              f"{row['loading_seconds']:10.2f}{flops / 1e9:8.0f}{row['share_of_peak']:8.0%}{row['memory_mb']:6.0f}"
              f"{row['speedup_median']:10.2f} ({min(speedups):.2f} to {max(speedups):.2f})")  # fmt: skip
    return rows


def time_runs(args: argparse.Namespace) -> list[dict]:
    """One row for each seed: seconds and accuracies of the plain loop and of each recipe, one after the other."""
    from neural_lib import checkpoint

    rows = []
    for seed in range(1, args.seeds + 1):
        common = ("--data", args.data, "--device", args.device)
        plain = start("--plain-seed", seed, "--started", time.time(), "--target", args.target, *common)
        row = {"seed": seed, "plain": json.loads(plain.communicate()[0])}
        for recipe in args.recipes:
            with tempfile.TemporaryDirectory() as folder:
                outputs = ("--model", f"{folder}/model.pth", "--plot", f"{folder}/plot.png")
                options = (*common, "--dataset", "kmnist", "--seed", str(seed), "--recipe", recipe)
                began = time.perf_counter()
                command = [sys.executable, str(ROOT / "train.py"), *options, *outputs]
                log = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout
                row[recipe] = {
                    "train": float(re.search(r"train the model: ([\d.]+)s", log)[1]),
                    "total": round(time.perf_counter() - began, 2),
                    "val_accuracy": checkpoint.load(f"{folder}/model.pth").metrics["val_accuracy"],
                    "test_accuracy": float(re.search(r"test accuracy: ([\d.]+)", log)[1]),
                }
        print(json.dumps(row), file=sys.stderr, flush=True)
        rows.append(row)
    return rows


def show_runs(rows: list[dict], args: argparse.Namespace) -> None:
    def mean(values: list[float]) -> str:
        deviation = statistics.stdev(values) if len(values) > 1 else math.nan
        return f"{statistics.mean(values):8.2%} +-{deviation * 100:5.2f}"

    def median(values: list[float]) -> str:
        return f"{statistics.median(values):7.1f} ({min(values):.1f} to {max(values):.1f})"

    print(f"\nwhole runs, n = {len(rows)} seeds: mean and standard deviation, median and range")
    ten_epochs = [row["plain"]["ten_epochs"] for row in rows]
    accuracies = [row["plain"]["test_accuracy"] for row in rows]
    print(f"plain, {PLAIN_EPOCHS} epochs: test {mean(accuracies)}, {median(ten_epochs)} s")
    reached = [row["plain"]["epochs"] for row in rows]
    to_target = [row["plain"]["train"] for row in rows if row["plain"]["epochs"]]
    print(f"plain, to {args.target:.1%} test accuracy: after epochs {reached}"
          + (f", {median(to_target)} s" if to_target else ""))  # fmt: skip
    for recipe in args.recipes:
        runs = [row[recipe] for row in rows]
        print(f"{recipe}: validation {mean([run['val_accuracy'] for run in runs])}, "
              f"test {mean([run['test_accuracy'] for run in runs])}")  # fmt: skip
        print(f"    training {median([run['train'] for run in runs])} s, "
              f"whole command {median([run['total'] for run in runs])} s")  # fmt: skip
        ratios = [ten / run["train"] for ten, run in zip(ten_epochs, runs, strict=True)]
        print(f"    plain's {PLAIN_EPOCHS} epochs take {median(ratios)} times as long, seed by seed")


def processor_name() -> str:
    cpuinfo = Path("/proc/cpuinfo")  # Linux; platform.processor() says only x86_64 there
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    names = [line.split(":")[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()


def compare(args: argparse.Namespace) -> None:
    result = {
        "benchmark": "training on KMNIST",
        "busy": args.busy,
        "processor": processor_name(),
        "cpus": os.cpu_count(),
        "python": platform.python_version(),
        "date": time.strftime("%Y-%m-%d"),
    }
    busy = subprocess.Popen([sys.executable, "-c", "while True: pass"]) if args.busy else None
    try:
        if args.rounds:
            names = ["plain", *(name for name in args.loops if name != "plain")]
            result["epochs"] = show_epochs(*time_epochs(names, args))
        if args.seeds:
            result["runs"] = time_runs(args)
            show_runs(result["runs"], args)
    finally:
        if busy:
            busy.kill()
    print(json.dumps(result))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="data", help="folder that holds KMNIST (data)")
    parser.add_argument("--rounds", type=int, default=5, help="counted epochs of each loop (5)")
    parser.add_argument("--loops", nargs="+", choices=LOOPS, default=list(LOOPS), help="those beside plain (all)")
    parser.add_argument("--busy", action="store_true", help="keep one core busy with another process")
    parser.add_argument("--seeds", type=int, default=0, help="whole runs of plain and of each recipe (0)")
    parser.add_argument("--recipes", nargs="+", choices=RECIPES, default=list(RECIPES), help="those recipes (all)")
    parser.add_argument("--target", type=float, default=0.944, help="that accuracy on the test set (0.944)")
    parser.add_argument("--device", choices=environment.DEVICES, default="auto")
    # for the processes that this one starts
    parser.add_argument("--worker", choices=LOOPS, help=argparse.SUPPRESS)
    parser.add_argument("--plain-seed", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--started", type=float, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if not 0 <= args.rounds <= MAX_ROUNDS:
        parser.error(f"--rounds must be from 0 to {MAX_ROUNDS}")
    if args.worker:
        work(args.worker, args)
    elif args.plain_seed is not None:
        train_plainly(args.plain_seed, args)
    else:
        compare(args)


if __name__ == "__main__":
    main()
