"""The environment of the process: ranks, cores and memory; and settings that must be made before torch is loaded."""

import contextlib
import ctypes
import os
import platform
import sys
from pathlib import Path
from typing import NamedTuple

from neural_lib.system.errors import UserError

DEVICES = ("auto", "cpu", "cuda", "mps")
# Turns of the loop in which a thread waits before it sleeps; OpenMP's default is 300,000. tests/README.md compares
# values: fewer turns cost some time on an idle machine and save much more beside a busy process.
SPIN_COUNT = "2000"
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # malloc.h
MAX_KEPT = 1 << 30  # bytes of freed memory that malloc keeps: far more than a training step frees
# Bytes from which malloc maps each block anew. This is the highest value that mallopt(3) documents.
MAPPED_FROM = 1 << 25


def tune_for_cpu() -> None:
    """Configure OpenMP and malloc for short training steps on the CPU; must be called before torch is imported.

    GNU OpenMP's threads spin while they wait for each other, which takes time from other programs. glibc's malloc
    returns freed memory to the system, which then maps and zeroes it again, page by page, in each training step.
    Environment variables that the user has set have priority.
    """
    if not {"GOMP_SPINCOUNT", "OMP_WAIT_POLICY"} & set(os.environ):
        os.environ["GOMP_SPINCOUNT"] = SPIN_COUNT
    by_user = {"MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_"} & set(os.environ)
    by_user = by_user or "_threshold" in os.environ.get("GLIBC_TUNABLES", "")
    if sys.platform == "linux" and platform.libc_ver()[0] == "glibc" and not by_user:
        libc = ctypes.CDLL(None)
        libc.mallopt(M_TRIM_THRESHOLD, MAX_KEPT)
        libc.mallopt(M_MMAP_THRESHOLD, MAPPED_FROM)


class Ranks(NamedTuple):
    """The ranks of this process, named as torchrun names them: among all processes of a run, and on this machine."""

    rank: int = 0
    world_size: int = 1
    local_rank: int = 0
    local_world_size: int = 1


def ranks_from_environment() -> Ranks:
    """Read the ranks from torchrun's environment variables; without them, the ranks of a single process.

    Raises UserError if the variables contradict each other.
    """
    given = {name: os.environ.get(name) for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE")}
    if given["WORLD_SIZE"] in (None, "1"):
        return Ranks()
    shown = ", ".join(f"{name} {'is not set' if value is None else value}" for name, value in given.items())
    # Other launchers may not set the local ranks; then all processes run on one machine.
    given["LOCAL_RANK"] = given["LOCAL_RANK"] or given["RANK"]
    given["LOCAL_WORLD_SIZE"] = given["LOCAL_WORLD_SIZE"] or given["WORLD_SIZE"]
    ranks = Ranks(*(int(value) if (value or "").isdecimal() else -1 for value in given.values()))
    if not (0 <= ranks.rank < ranks.world_size and 0 <= ranks.local_rank < ranks.local_world_size <= ranks.world_size):
        raise UserError(f"can't tell the rank of this process: {shown}; start with torchrun, or unset WORLD_SIZE")
    return ranks


def usable_cores() -> int:
    """Number of CPU cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def available_memory() -> int:
    """Bytes of free memory, capped by the container's limit; sys.maxsize if the system doesn't report any."""
    limits = [sys.maxsize]
    with contextlib.suppress(OSError, ValueError, LookupError):  # Linux
        lines = dict(line.split(":") for line in Path("/proc/meminfo").read_text().splitlines())
        limits.append(int(lines["MemAvailable"].split()[0]) * 1024)
    with contextlib.suppress(OSError, ValueError, LookupError):  # ValueError for "max": no limit
        limit, used = (int(Path(f"/sys/fs/cgroup/memory.{name}").read_text()) for name in ("max", "current"))
        lines = dict(line.split() for line in Path("/sys/fs/cgroup/memory.stat").read_text().splitlines())
        limits.append(max(0, limit - used + int(lines["inactive_file"])))  # the file cache is freed when needed
    return min(limits)


def check_memory(what: str, needed: int, advice: str) -> None:
    """Raise UserError, "`what` 2.0 GB of memory, and 1.0 GB are free; `advice`", if `needed` bytes are not free."""
    available = available_memory()
    if needed > available:
        raise UserError(f"{what} {size_text(needed)} of memory, and {size_text(available)} are free; {advice}")


def size_text(size: int) -> str:
    """A size in bytes as text: "1.5 GB", "200.0 MB"."""
    return f"{size / 1e9:,.1f} GB" if size >= 1e9 else f"{size / 1e6:,.1f} MB"
