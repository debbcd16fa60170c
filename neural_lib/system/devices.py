"""The device that computes, and its precision."""

import os
import time

import torch

from neural_lib.system.environment import Ranks, usable_cores, visible_cores
from neural_lib.system.errors import UserError


def now(device: torch.device) -> float:
    """Seconds on a monotonic clock, read after everything queued on the device has been computed."""
    if device.type != "cpu":
        torch.accelerator.synchronize()
    return time.perf_counter()


def select_device(name: str, ranks: Ranks | None = None) -> tuple[torch.device, str]:
    """Select the device for a value of --device; 'auto' selects an accelerator if torch finds one, else the CPU.

    Returns the device and the reason for the choice. ranks: default: a single process. Each of several processes on a
    machine gets a different GPU, and its share of the CPU cores.
    Raises UserError if torch can't use the requested device on this machine, or there are fewer GPUs than processes.
    """
    ranks = ranks or Ranks()
    _share_cores(ranks)
    accelerator = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
    if ranks.world_size > 1 and accelerator and accelerator.type != "cuda":  # torch.distributed has no backend for it
        if name == accelerator.type:
            raise UserError(f"--device {name}: for one process alone; start several with --device cpu")
        accelerator = None
    if name == "cpu" or name == "auto" and accelerator is None:
        reason = "as --device says" if name == "cpu" else "torch found no accelerator"
        return torch.device("cpu"), f"{reason}; {describe(torch.device('cpu')).removeprefix('cpu, ')}"
    if name == "auto":
        return _device_of_rank(accelerator.type, ranks), f"torch found this accelerator: {describe(accelerator)}"
    if accelerator is None or accelerator.type != name:
        raise UserError(f"--device {name}: torch {torch.__version__} can't use it on this machine; use --device auto")
    return _device_of_rank(name, ranks), "as --device says"


def _share_cores(ranks: Ranks) -> None:
    # OMP_NUM_THREADS has priority, except for 1, which torchrun sets for several processes if nobody else did.
    if ranks.local_world_size > 1 and os.environ.get("OMP_NUM_THREADS", "1") == "1":
        torch.set_num_threads(max(1, usable_cores() // ranks.local_world_size))
    elif "OMP_NUM_THREADS" not in os.environ and usable_cores() < torch.get_num_threads():  # a CPU quota
        torch.set_num_threads(usable_cores())


def _device_of_rank(kind: str, ranks: Ranks) -> torch.device:
    # Each of several processes on a machine computes on a different GPU.
    if kind != "cuda" or ranks.world_size == 1:
        return torch.device(kind)
    if (gpus := torch.cuda.device_count()) < ranks.local_world_size:
        raise UserError(
            f"--device cuda: {ranks.local_world_size} processes on a machine with {gpus} GPU{'s' if gpus > 1 else ''}; "
            f"give torchrun --nproc-per-node {gpus}, or --device cpu"
        )
    torch.cuda.set_device(ranks.local_rank)
    return torch.device(kind, ranks.local_rank)


def describe(device: torch.device) -> str:
    """The device's name, or the number of threads on the CPU: "NVIDIA H100", "cpu, 2 threads by the CPU quota"."""
    if device.type == "cpu":
        threads = torch.get_num_threads()
        reason = " by the CPU quota" if threads == usable_cores() < visible_cores() else ""
        return f"cpu, {threads} thread{'s' if threads > 1 else ''}{reason}"
    return torch.cuda.get_device_name() if device.type == "cuda" else device.type


def select_precision(name: str, device: torch.device) -> str:
    """Resolve a value of --precision; 'auto' is 'bf16' if the device is known to compute it natively, else 'fp32'."""
    return name if name != "auto" else "bf16" if computes_bfloat16(device) else "fp32"


def computes_bfloat16(device: torch.device) -> bool:
    """True if the device is known to have instructions for bfloat16.

    CUDA GPUs have them from Ampere on, x86 CPUs with AVX512-BF16 or AMX. Other devices may have them, too, but it was
    not measured if torch is faster with them.
    """
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    if device.type == "cpu":
        capabilities = getattr(torch.cpu, "get_capabilities", dict)()  # not in every version of torch
        return any(capabilities.get(instructions) for instructions in ("avx512_bf16", "amx_bf16"))
    return False


def autocast(device: torch.device, precision: str) -> torch.autocast:
    """A context in which layers compute in bfloat16 if precision is 'bf16'; their weights stay float32."""
    return torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16")
