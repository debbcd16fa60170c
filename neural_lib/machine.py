"""What a process that computes needs of its machine: threads and memory that fit, a clock that waits for the device.

torch is imported inside the functions, for some of this has to happen before it is loaded.
"""

import ctypes
import os
import platform
import sys
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

# turns of a loop, instead of OpenMP's own 300,000. On an idle machine 1000 cost 7 % of a bf16 step and 2000 3 %; beside
# a busy process an epoch takes 18 s with 2000 and 23 s without (2 cores of an AMD EPYC; tests/bench_train.py --busy)
SPIN_COUNT = "2000"
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # malloc.h
KEPT_AT_MOST = 1 << 30  # bytes of freed memory; far more than a step's, so in effect all of it
MAPPED_FROM = 1 << 25  # bytes, the greatest that mallopt(3) documents; a larger piece is mapped anew each time


def tune_for_cpu() -> None:
    """Let torch's threads and memory fit short steps on the CPU; to be called before torch is imported.

    GNU OpenMP's threads spin while they wait for each other, and so take the time of whatever else runs. glibc's malloc
    hands freed memory back to the system, which then maps and zeroes it again, page by page, for each step of training.
    What the user's environment says of either stays.
    """
    if not {"GOMP_SPINCOUNT", "OMP_WAIT_POLICY"} & set(os.environ):
        os.environ["GOMP_SPINCOUNT"] = SPIN_COUNT
    by_user = {"MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_"} & set(os.environ)
    by_user = by_user or "_threshold" in os.environ.get("GLIBC_TUNABLES", "")
    if sys.platform == "linux" and platform.libc_ver()[0] == "glibc" and not by_user:
        libc = ctypes.CDLL(None)
        libc.mallopt(M_TRIM_THRESHOLD, KEPT_AT_MOST)
        libc.mallopt(M_MMAP_THRESHOLD, MAPPED_FROM)


def compute_in_one_thread() -> None:
    """Let torch compute on the CPU in one thread from now on: for single small images, on which several gain nothing.

    Beside another busy program they wait for each other, and an answer was seen to take several times as long.
    """
    import torch

    torch.set_num_threads(1)


def now(device: "torch.device") -> float:
    """Seconds on a monotonic clock, read once everything queued on the device has been computed."""
    import torch

    if device.type != "cpu":
        torch.accelerator.synchronize()
    return time.perf_counter()
