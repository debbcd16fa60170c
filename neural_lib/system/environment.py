"""The environment of the process: ranks, cores and memory; and settings that must be made before torch is loaded."""

import contextlib
import ctypes
import math
import os
import platform
import sys
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
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

    GNU OpenMP's threads spin while they wait for each other, which takes time from other programs; more threads than
    the CPU quota allows would spend nearly all of it so. glibc's malloc returns freed memory to the system, which then
    maps and zeroes it again, page by page, in each training step.
    Environment variables that the user has set have priority.
    """
    if usable_cores() < visible_cores() and os.environ.get("WORLD_SIZE", "1") == "1":  # ranks: devices shares the cores
        os.environ.setdefault("OMP_NUM_THREADS", str(usable_cores()))  # torch, NumPy and scikit-learn follow it
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


def visible_cores() -> int:
    """Number of CPU cores that this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def usable_cores(root: Path = Path("/")) -> int:
    """Number of CPU cores that this process may use: the visible ones, at most the CPU quota of its groups, rounded up.

    root: the folder that holds proc/ and the mounted file systems.
    """
    cores = visible_cores()
    for group in _control_groups("cpu", root):
        for names in (("cpu.max",), ("cpu.cfs_quota_us", "cpu.cfs_period_us")):  # cgroup v2, v1
            with contextlib.suppress(OSError, ValueError):  # ValueError for "max": no limit
                quota, period = map(int, " ".join((group / name).read_text() for name in names).split())
                cores = min(cores, math.ceil(quota / period)) if quota > 0 else cores  # -1 is no limit either
    return cores


def available_memory(root: Path = Path("/")) -> int:
    """Bytes of free memory, capped by the limits of this process's groups; sys.maxsize if the system reports none.

    root: see usable_cores.
    """
    limits = [sys.maxsize]
    with contextlib.suppress(OSError, ValueError, LookupError):  # Linux
        lines = dict(line.split(":") for line in (root / "proc/meminfo").read_text().splitlines())
        limits.append(int(lines["MemAvailable"].split()[0]) * 1024)
    for group in _control_groups("memory", root):
        for limit, used, cache in (
            ("memory.max", "memory.current", "inactive_file"),  # cgroup v2
            ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),  # v1
        ):
            with contextlib.suppress(OSError, ValueError, LookupError):  # ValueError for "max": no limit
                free = int((group / limit).read_text()) - int((group / used).read_text())
                lines = dict(line.split() for line in (group / "memory.stat").read_text().splitlines())
                limits.append(max(0, free + int(lines[cache])))  # the file cache is freed when needed
    return min(limits)


def _control_groups(controller: str, root: Path) -> Iterator[Path]:
    # The folders of this process's control group and of those around it, whose limits hold for it as well: see
    # cgroups(7), and proc(5) for mountinfo. A system may mount version 2, version 1 or both. A container may see a part
    # of the hierarchy alone, whose top is then the container's group.
    with contextlib.suppress(OSError, ValueError, LookupError):  # Linux
        lines = (line.split(":", 2) for line in (root / "proc/self/cgroup").read_text().splitlines())
        paths = {name: PurePosixPath(path) for _, names, path in lines for name in names.split(",")}  # "" is version 2
        for line in (root / "proc/self/mountinfo").read_text().splitlines():
            mount, kind = (part.split() for part in line.split(" - ", 1))
            name = "" if kind[0] == "cgroup2" else controller
            if kind[0] in ("cgroup", "cgroup2") and name in ("", *kind[-1].split(",")) and name in paths:
                top, path, folder = PurePosixPath(mount[3]), paths[name], root / mount[4].lstrip("/")
                is_within = path.is_relative_to(top) and ".." not in path.parts
                inner = path.relative_to(top) if is_within else PurePosixPath()
                yield from (folder / each for each in (inner, *inner.parents))


def check_memory(what: str, needed: int, advice: str) -> None:
    """Raise UserError, "`what` 2.0 GB of memory, and 1.0 GB are free; `advice`", if `needed` bytes are not free."""
    available = available_memory()
    if needed > available:
        raise UserError(f"{what} {size_text(needed)} of memory, and {size_text(available)} are free; {advice}")


def size_text(size: int) -> str:
    """A size in bytes as text: "1.5 GB", "200.0 MB"."""
    return f"{size / 1e9:,.1f} GB" if size >= 1e9 else f"{size / 1e6:,.1f} MB"
