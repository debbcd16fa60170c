"""What surrounds the process: ranks, cores and memory; and settings that must be made before torch is loaded."""

import contextlib
import ctypes
import os
import platform
import sys
from pathlib import Path
from typing import NamedTuple

from neural_lib.system.errors import UserError

DEVICES = ("auto", "cpu", "cuda", "mps")
# turns of a loop, instead of OpenMP's own 300,000. On an idle machine 1000 cost 7 % of a bf16 step and 2000 3 %; beside
# a busy process an epoch takes 18 s with 2000 and 23 s without (2 cores of an AMD EPYC; tests/bench_train.py --busy)
SPIN_COUNT = "2000"
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # malloc.h
KEPT_AT_MOST = 1 << 30  # bytes of freed memory; far more than a step's, so in effect all of it
MAPPED_FROM = 1 << 25  # bytes, the greatest that mallopt(3) documents; larger blocks are mapped again each time


def tune_for_cpu() -> None:
    """Set OpenMP and malloc for short training steps on the CPU; call it before torch is imported.

    GNU OpenMP's threads spin while they wait for each other, which takes time from other programs. glibc's malloc
    returns freed memory to the system, which then maps and zeroes it again, page by page, in each training step.
    Settings in the user's environment have priority.
    """
    if not {"GOMP_SPINCOUNT", "OMP_WAIT_POLICY"} & set(os.environ):
        os.environ["GOMP_SPINCOUNT"] = SPIN_COUNT
    by_user = {"MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_"} & set(os.environ)
    by_user = by_user or "_threshold" in os.environ.get("GLIBC_TUNABLES", "")
    if sys.platform == "linux" and platform.libc_ver()[0] == "glibc" and not by_user:
        libc = ctypes.CDLL(None)
        libc.mallopt(M_TRIM_THRESHOLD, KEPT_AT_MOST)
        libc.mallopt(M_MMAP_THRESHOLD, MAPPED_FROM)


class Ranks(NamedTuple):
    """This process's place among those that a launcher started together, and among those of them on its machine."""

    rank: int = 0
    world_size: int = 1
    local_rank: int = 0
    local_world_size: int = 1


def ranks_from_environment() -> Ranks:
    """The ranks that torchrun has set in the environment; those of a single process without a launcher.

    Raises UserError if the variables don't fit together.
    """
    given = {name: os.environ.get(name) for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE")}
    if given["WORLD_SIZE"] in (None, "1"):
        return Ranks()
    shown = ", ".join(f"{name} {'is not set' if value is None else value}" for name, value in given.items())
    given["LOCAL_RANK"] = given["LOCAL_RANK"] or given["RANK"]  # of another launcher, on one machine
    given["LOCAL_WORLD_SIZE"] = given["LOCAL_WORLD_SIZE"] or given["WORLD_SIZE"]
    found = Ranks(*(int(value) if (value or "").isdecimal() else -1 for value in given.values()))
    if not (0 <= found.rank < found.world_size and 0 <= found.local_rank < found.local_world_size <= found.world_size):
        raise UserError(f"can't tell the rank of this process: {shown}; start with torchrun, or unset WORLD_SIZE")
    return found


def usable_cores() -> int:
    """How many CPU cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def available_memory() -> int:
    """How many bytes of memory programs can still get: the system's figure, or less where a container has a limit."""
    found = [sys.maxsize]
    with contextlib.suppress(OSError, ValueError, LookupError):  # Linux
        lines = dict(line.split(":") for line in Path("/proc/meminfo").read_text().splitlines())
        found.append(int(lines["MemAvailable"].split()[0]) * 1024)
    with contextlib.suppress(OSError, ValueError, LookupError):  # "max": no limit
        limit, used = (int(Path(f"/sys/fs/cgroup/memory.{name}").read_text()) for name in ("max", "current"))
        lines = dict(line.split() for line in Path("/sys/fs/cgroup/memory.stat").read_text().splitlines())
        found.append(max(0, limit - used + int(lines["inactive_file"])))  # files' pages, given up when needed
    return min(found)
