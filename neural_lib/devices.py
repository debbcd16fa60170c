"""Which device computes, and how precisely.

torch is imported inside the functions, so that a device that isn't there is refused before torch is loaded.
"""

import ctypes
import logging
import os
import platform
import sys
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, NamedTuple

from neural_lib.config import TrainConfig
from neural_lib.errors import UserError

if TYPE_CHECKING:
    import torch

log = logging.getLogger(__name__)

DEVICES = ("auto", "cpu", "cuda", "mps")


class Ranks(NamedTuple):
    """This process's place among those that a launcher started together, and among those of them on its machine."""

    rank: int = 0
    world_size: int = 1
    local_rank: int = 0
    local_world_size: int = 1


def ranks_from_environment() -> Ranks:
    """What torchrun tells this process, or one process alone where there is no launcher.

    Raises UserError where the environment is no launcher's.
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


def select_device(name: str, ranks: Ranks | None = None) -> tuple["torch.device", str]:
    """The device to compute on and, in words, why: 'auto' takes an accelerator where torch finds one.

    ranks: of several processes, of which each takes a GPU of its own.
    Raises UserError where this build of torch can't use the device that was asked for, or they are too few.
    """
    import torch

    ranks = ranks or Ranks()
    found = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
    if ranks.world_size > 1 and found and found.type != "cuda":  # torch.distributed has no backend for it
        if name == found.type:
            raise UserError(f"--device {name}: for one process alone; start several with --device cpu")
        found = None
    if name == "auto":
        if found is None:
            threads = describe(torch.device("cpu")).removeprefix("cpu, ")
            return torch.device("cpu"), f"torch found no accelerator; {threads}"
        return _own(found.type, ranks), f"torch found this accelerator: {describe(found)}"
    if name != "cpu" and (found is None or found.type != name):
        raise UserError(f"--device {name}: torch {torch.__version__} can't use it on this machine; use --device auto")
    return _own(name, ranks), "as --device says"


def _own(kind: str, ranks: Ranks) -> "torch.device":
    # of several processes on a machine each computes on a GPU of its own
    import torch

    if kind != "cuda" or ranks.world_size == 1:
        return torch.device(kind)
    if (gpus := torch.cuda.device_count()) < ranks.local_world_size:
        raise UserError(
            f"--device cuda: {ranks.local_world_size} processes on a machine with {gpus} GPU{'s' if gpus > 1 else ''}; "
            f"give torchrun --nproc-per-node {gpus}, or --device cpu"
        )
    torch.cuda.set_device(ranks.local_rank)
    return torch.device(kind, ranks.local_rank)


def describe(device: "torch.device") -> str:
    """The device's name, or the number of threads on the CPU: "NVIDIA H100", "cpu, 2 threads"."""
    import torch

    if device.type == "cpu":
        threads = torch.get_num_threads()
        return f"cpu, {threads} thread{'s' if threads > 1 else ''}"
    return torch.cuda.get_device_name() if device.type == "cuda" else device.type


def select_precision(name: str, device: "torch.device") -> tuple[str, str]:
    """'fp32' or 'bf16', for the network's layers, and why: 'auto' takes bf16 where that is known to be native.

    name: one of TrainConfig.precision's choices; fp32 and bf16 are taken at their word.
    """
    if name != "auto":
        return name, ""
    if computes_bfloat16(device):
        return "bf16", f"the {device} computes it natively"
    return "fp32", f"the {device} isn't known to compute bf16 natively"


def resolve_precision(configs: Sequence[TrainConfig], device: "torch.device") -> list[TrainConfig]:
    """The configurations with the precision that each comes to on this device; the log tells which and why."""
    for requested in dict.fromkeys(config.precision for config in configs):
        precision, reason = select_precision(requested, device)
        log.info("precision: %s%s", precision, f" ({reason})" if reason else "")
        if precision == "bf16" and not computes_bfloat16(device):
            log.warning("--precision bf16: the %s isn't known to compute it natively; fp32 may be faster", device)
        configs = [replace(each, precision=precision) if each.precision == requested else each for each in configs]
    return list(configs)


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
