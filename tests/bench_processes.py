"""Images per second of one process and of several, and from which batch on several pay.

    python tests/bench_processes.py --data data
    python tests/bench_processes.py --data data --arch vgg-small --batch-sizes 64 128

Each configuration is started by torchrun, in turn, `--rounds` times; it trains on KMNIST with batches of each size, as
train.py would, and process 0 times the steps:

- "alone": one process with all cores;
- "share": one process with as many of them as each of several has, as on a machine of its own;
- "together": several processes, each with its share of the cores.

Prints the medians of the rounds, what a step of several costs besides computing its part (of the batches whose part is
another size that is measured), how long the gradients' all-reduce takes on its own, and, as the last line, the same as
JSON. GPUs: each process takes one.
"""

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from neural_lib.config import TrainConfig
from neural_lib.system.environment import DEVICES, ranks_from_environment, tune_for_cpu

WARM_UP = 10  # steps


# --- in each process ---


def work(args: argparse.Namespace) -> None:
    """Train a few steps of each batch size; rank 0 prints what it measured as a line of JSON."""
    ranks = ranks_from_environment()
    tune_for_cpu()  # before torch is loaded, as in train.py
    import torch

    from neural_lib.data.images import load_images
    from neural_lib.system import devices, distributed

    device, _ = devices.select_device(args.device, ranks)
    if args.threads:
        torch.set_num_threads(args.threads)
    images = load_images("kmnist", args.data, train=True).to(device)
    with distributed.process_group(ranks, device):
        seconds = {size: step_seconds(args, size, images) for size in args.batch_sizes}
        gradients = sum(parameter.numel() for parameter in build(args, 64, images).model.parameters())
        several = ranks.world_size > 1
        measured = {
            "seconds": seconds,
            "threads": torch.get_num_threads(),
            "device": str(device),
            "parameters": gradients,
            "torch": torch.__version__,
            "all_reduce": all_reduce_seconds(gradients, device) if several else 0.0,
            "smallest": all_reduce_seconds(1, device) if several else 0.0,
        }
        if ranks.rank == 0:
            print(json.dumps(measured), flush=True)
        distributed.broadcast(None)  # the others wait until it is printed


def build(args: argparse.Namespace, batch_size: int, images):
    from one_run import run_of

    return run_of(TrainConfig(arch=args.arch, batch_size=batch_size), images)


def step_seconds(args: argparse.Namespace, batch_size: int, images) -> float:
    """The median time of `args.steps` training steps."""
    from neural_lib.data.images import ImageTensors
    from neural_lib.system import devices
    from neural_lib.training.loop import train_one_epoch

    few = -(-batch_size * (WARM_UP + args.steps + 1) * 4 // 3)  # three quarters are trained on
    few = ImageTensors(*images[[index % len(images) for index in range(few)]], images.device)
    times = []

    class Clock:
        def step(self, sums) -> None:
            times.append(devices.now(images.device))

    train_one_epoch(build(args, batch_size, few), bar=Clock())
    after = times[WARM_UP : WARM_UP + args.steps + 1]
    return statistics.median(later - earlier for earlier, later in zip(after, after[1:], strict=False))


def all_reduce_seconds(numbers: int, device) -> float:
    """The median of 50 sums of so many float32 numbers over the processes."""
    import torch
    import torch.distributed as dist

    from neural_lib.system import devices

    tensor, seconds = torch.zeros(numbers, device=device), []
    for _ in range(60):
        start = devices.now(device)
        dist.all_reduce(tensor)
        seconds.append(devices.now(device) - start)
    return statistics.median(seconds[10:])


# --- in the parent ---


def measure(count: int, threads: int, args: argparse.Namespace) -> dict:
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", count]
    own = ["--worker", "--threads", threads, "--data", args.data, "--arch", args.arch, "--steps", args.steps]
    command = [*launcher, __file__, *own, "--device", args.device, "--batch-sizes", *args.batch_sizes]
    variables = os.environ | {"OMP_NUM_THREADS": str(threads or args.cores)}
    done = subprocess.run([sys.executable, *map(str, command)], env=variables, capture_output=True, text=True)
    if done.returncode:
        sys.exit(done.stderr)
    return json.loads(done.stdout.splitlines()[-1])


def compare(args: argparse.Namespace) -> None:
    share = max(1, args.cores // args.processes)
    kinds = {"alone": (1, args.cores), "share": (1, share), "together": (args.processes, share)}
    rounds = {name: [] for name in kinds}
    for turn in range(args.rounds):
        for name in list(kinds)[:: 1 if turn % 2 else -1]:
            rounds[name].append(measure(*kinds[name], args))
            print(f"round {turn + 1}: {name}", file=sys.stderr, flush=True)

    medians = {
        name: {size: statistics.median(one["seconds"][str(size)] for one in got) for size in args.batch_sizes}
        for name, got in rounds.items()
    }
    print(f"{args.arch}, images/s: median (range) of {args.rounds} rounds of {args.steps} steps")
    print(f"{'':10}{'processes':>10}{'threads':>8}" + "".join(f"{f'batch {size}':>26}" for size in args.batch_sizes))
    for name, got in rounds.items():
        cells = ""
        for size in args.batch_sizes:
            rates = [size / one["seconds"][str(size)] for one in got]
            cells += f"{f'{size / medians[name][size]:,.0f} ({min(rates):,.0f} to {max(rates):,.0f})':>26}"
        print(f"{name:10}{kinds[name][0]:10}{got[0]['threads']:8}{cells}")
    for other in ("alone", "share"):
        ratios = ""
        for size in args.batch_sizes:
            each = [
                one["seconds"][str(size)] / several["seconds"][str(size)]
                for one, several in zip(rounds[other], rounds["together"], strict=True)
            ]
            ratios += f"{f'{statistics.median(each):.2f} ({min(each):.2f} to {max(each):.2f})':>26}"
        print(f"{f'together, times as fast as {other}':28}{ratios}")

    pairs = [(size, size // args.processes) for size in args.batch_sizes if size // args.processes in args.batch_sizes]
    if not pairs:
        sys.exit("no batch size is another one's share, so the cost of a step besides computing is unknown")
    share, together = medians["share"], medians["together"]
    per_image = statistics.median((share[size] - share[part]) / (size - part) for size, part in pairs)
    extra = statistics.median(together[size] - share[part] for size, part in pairs)
    keys = ("all_reduce", "smallest")
    reduce, smallest = (statistics.median(one[key] for one in rounds["together"]) for key in keys)
    volume = rounds["together"][0]["parameters"] * 4 / 1e6
    print(f"share: {per_image * 1e3:.3f} ms an image; together, a step takes {extra * 1e3:.2f} ms longer than share's "
          f"with a part of the batch;\non its own an all-reduce of {volume:.2f} MB takes {reduce * 1e3:.2f} ms, of one "
          f"number {smallest * 1e3:.2f} ms")  # fmt: skip
    from_on = extra / (per_image * (1 - 1 / args.processes))
    print(f"so {args.processes} of share pay from batches of {from_on:.0f} images on")
    print(json.dumps({
        "benchmark": "processes", "arch": args.arch, "rounds": rounds, "ms_an_image": per_image * 1e3,
        "extra_ms": extra * 1e3, "pays_from": from_on,
        "cpus": args.cores, "python": platform.python_version(), "date": time.strftime("%Y-%m-%d"),
    }))  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="data", help="folder that holds KMNIST (data)")
    parser.add_argument("--arch", default="lenet", help="network (lenet)")
    parser.add_argument("--batch-sizes", type=int, nargs="+", default=[32, 64, 128, 256, 1024], metavar="N")
    parser.add_argument("--processes", type=int, default=2, help="that train together (2)")
    parser.add_argument("--rounds", type=int, default=5, help="of each configuration (5)")
    parser.add_argument("--steps", type=int, default=60, help="timed in each, after 10 others (60)")
    parser.add_argument("--device", choices=DEVICES, default="auto")
    # for the processes that this one starts
    parser.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--threads", type=int, default=0, help=argparse.SUPPRESS)
    args = parser.parse_args()
    args.cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    if args.worker:
        work(args)
    else:
        compare(args)


if __name__ == "__main__":
    main()
