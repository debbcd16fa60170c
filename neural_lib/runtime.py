"""The machine: which device computes and how precisely, where randomness starts, and a clock that waits for the device.

torch is imported inside the functions, so that a device that isn't there is refused before torch is loaded.
"""

import ctypes
import os
import platform
import random
import sys
import time
from typing import TYPE_CHECKING

from neural_lib.errors import UserError

if TYPE_CHECKING:
    import torch

DEVICES = ("auto", "cpu", "cuda", "mps")


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


def check_device(name: str) -> None:
    """Raise UserError, without importing torch, where this machine can't have the device that was asked for."""
    if name == "cuda" and not _gpu_driver_present():
        raise UserError("--device cuda: no CUDA device or no NVIDIA driver on this machine; use --device auto or cpu")
    if name == "mps" and (platform.system(), platform.machine()) != ("Darwin", "arm64"):
        raise UserError("--device mps: only Macs with Apple silicon have it; use --device auto or cpu")


def _gpu_driver_present() -> bool:
    # The driver's own count; PyTorch's ROCm builds call AMD's GPUs "cuda" too, and those have /dev/kfd
    try:
        driver = ctypes.CDLL("nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1")
        count = ctypes.c_int(0)
        if driver.cuInit(0) == 0 and driver.cuDeviceGetCount(ctypes.byref(count)) == 0 and count.value > 0:
            return True
    except OSError:
        pass
    return os.path.exists("/dev/kfd")


def select_device(name: str) -> tuple["torch.device", str]:
    """The device to compute on and, in words, why: 'auto' takes an accelerator where torch finds one.

    Raises UserError where this build of torch can't use the device that was asked for.
    """
    import torch

    found = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
    if name == "auto":
        if found is None:
            threads = torch.get_num_threads()
            return torch.device("cpu"), f"torch found no accelerator; {threads} thread{'s' if threads > 1 else ''}"
        return torch.device(found.type), f"torch found this accelerator: {_describe(found)}"
    if name != "cpu" and (found is None or found.type != name):
        raise UserError(f"--device {name}: torch {torch.__version__} can't use it on this machine; use --device auto")
    return torch.device(name), "as --device says"


def _describe(device: "torch.device") -> str:
    import torch

    return torch.cuda.get_device_name() if device.type == "cuda" else device.type


def select_precision(name: str, device: "torch.device") -> tuple[str, str]:
    """'fp32' or 'bf16', for the network's layers, and why: 'auto' takes bf16 where that is known to be native.

    name: one of config.CHOICES["precision"]; fp32 and bf16 are taken at their word.
    """
    if name != "auto":
        return name, "as --precision says"
    if computes_bfloat16(device):
        return "bf16", f"the {device} computes it natively"
    return "fp32", f"the {device} isn't known to compute bf16 natively"


def computes_bfloat16(device: "torch.device") -> bool:
    """Whether the device is known to have instructions for bfloat16.

    CUDA has them from Ampere on, x86 with AVX512-BF16 or AMX. Others may have them as well; whether they make torch
    faster there hasn't been seen.
    """
    import torch

    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    if device.type == "cpu":
        has = getattr(torch.cpu, "get_capabilities", dict)()  # not in every version of torch
        return any(has.get(instructions) for instructions in ("avx512_bf16", "amx_bf16"))
    return False


def autocast(device: "torch.device", precision: str) -> "torch.autocast":
    """A context in which layers compute in bfloat16, where precision is 'bf16'; their weights stay float32."""
    import torch

    return torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16")


def seed_everything(seed: int) -> None:
    """Seed Python's, NumPy's and torch's default generators, the last on every device."""
    import numpy as np
    import torch

    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)


def random_state(device: "torch.device") -> dict:
    """Where the generators that seed_everything seeds stand, as plain types and tensors; torch's on this device."""
    import numpy as np
    import torch

    version, numbers, gauss = random.getstate()
    of_numpy = np.random.get_state(legacy=False)
    of_numpy["state"]["key"] = of_numpy["state"]["key"].tolist()
    state = {"python": [version, list(numbers), gauss], "numpy": of_numpy, "torch": torch.get_rng_state()}
    if device.type != "cpu":
        state["device"] = torch.get_device_module(device).get_rng_state()
    return state


def set_random_state(state: dict, device: "torch.device") -> None:
    """Put them back to where random_state found them."""
    import numpy as np
    import torch

    version, numbers, gauss = state["python"]
    random.setstate((version, tuple(numbers), gauss))
    np.random.set_state(state["numpy"])
    torch.set_rng_state(state["torch"])
    if device.type != "cpu":
        torch.get_device_module(device).set_rng_state(state["device"])


def now(device: "torch.device") -> float:
    """Seconds on a monotonic clock, read once everything queued on the device has been computed."""
    import torch

    if device.type != "cpu":
        torch.accelerator.synchronize()
    return time.perf_counter()
