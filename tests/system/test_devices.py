import os

import pytest
import torch

from neural_lib.system import devices
from neural_lib.system.environment import Ranks
from neural_lib.system.errors import UserError

CPU = torch.device("cpu")


@pytest.mark.parametrize(
    "native, name, expected",
    [
        (True, "auto", "bf16"),
        (False, "auto", "fp32"),
        (True, "fp32", "fp32"),
        (False, "bf16", "bf16"),
    ],
)
def test_auto_is_bfloat16_only_if_it_is_native(monkeypatch, native, name, expected):
    monkeypatch.setattr(devices, "computes_bfloat16", lambda device: native)
    assert devices.select_precision(name, CPU) == expected


@pytest.mark.parametrize(
    "has, native", [({"avx512_bf16": True}, True), ({"amx_bf16": True}, True), ({"avx2": True}, False)]
)
def test_bfloat16_is_native_with_either_of_two_instruction_sets(monkeypatch, has, native):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: has, raising=False)
    assert devices.computes_bfloat16(CPU) is native


@pytest.mark.skipif(not os.path.exists("/proc/cpuinfo"), reason="/proc/cpuinfo is Linux's")
def test_torch_and_the_kernel_agree_on_bfloat16():
    with open("/proc/cpuinfo") as file:
        flags = {"avx512_bf16", "amx_bf16"} & set(file.read().split())
    if not hasattr(torch.cpu, "get_capabilities"):
        pytest.skip("this torch has no get_capabilities")
    assert devices.computes_bfloat16(CPU) is bool(flags)


def test_autocast_is_on_for_bfloat16_alone():
    for precision, dtype in (("bf16", torch.bfloat16), ("fp32", torch.float32)):
        with devices.autocast(CPU, precision):
            assert torch.nn.functional.linear(torch.ones(1, 2), torch.ones(3, 2)).dtype == dtype


# --- which device ---


@pytest.fixture
def accelerator(monkeypatch):
    """Let torch find an accelerator; returns the numbers of the GPUs that processes take."""
    taken = []

    def find(kind: str, gpus: int = 0) -> list[int]:
        monkeypatch.setattr(torch.accelerator, "is_available", lambda: True)
        monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda: torch.device(kind))
        monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
        monkeypatch.setattr(torch.cuda, "set_device", taken.append)
        monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "a GPU")
        return taken

    return find


def test_auto_takes_an_accelerator_or_the_cpu_and_gives_the_reason(accelerator, monkeypatch):
    accelerator("cuda", gpus=1)
    assert devices.select_device("auto") == (torch.device("cuda"), "torch found this accelerator: a GPU")
    device, reason = devices.select_device("cpu")
    assert device == CPU and reason.startswith("as --device says; ") and "thread" in reason
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: False)
    device, reason = devices.select_device("auto")
    assert device == CPU and reason.startswith("torch found no accelerator; ") and "thread" in reason


@pytest.mark.parametrize("name", ["cuda", "mps"])
def test_a_device_that_is_not_there_is_refused(monkeypatch, name):
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: False)
    with pytest.raises(UserError, match=f"--device {name}: torch .* can't use it on this machine; use --device auto"):
        devices.select_device(name)


def test_the_accelerator_of_another_kind_is_refused(accelerator):
    accelerator("mps")
    with pytest.raises(UserError, match="--device cuda: torch .* can't use it"):
        devices.select_device("cuda")


# --- several processes on a machine ---


def test_each_of_several_processes_takes_a_gpu_of_its_own(accelerator):
    taken = accelerator("cuda", gpus=4)
    for name in ("auto", "cuda"):
        device, _ = devices.select_device(name, Ranks(rank=6, world_size=8, local_rank=2, local_world_size=4))
        assert device == torch.device("cuda", 2)
    assert taken == [2, 2]
    assert devices.select_device("cuda")[0] == torch.device("cuda") and taken == [2, 2]


def test_more_processes_than_gpus_are_refused(accelerator):
    accelerator("cuda", gpus=1)
    with pytest.raises(UserError, match="2 processes on a machine with 1 GPU; give torchrun --nproc-per-node 1, or"):
        devices.select_device("auto", Ranks(1, 2, 1, 2))


def test_an_accelerator_without_a_distributed_backend_is_for_one_process(accelerator):
    accelerator("mps")
    assert devices.select_device("auto")[0].type == "mps"
    assert devices.select_device("auto", Ranks(0, 2, 0, 2))[0].type == "cpu"
    with pytest.raises(UserError, match="--device mps: for one process alone; start several with --device cpu"):
        devices.select_device("mps", Ranks(0, 2, 0, 2))


@pytest.fixture
def set_threads(monkeypatch):
    """Let torch and the system have other numbers of threads and cores; returns those that torch is then set to."""

    def change(torch_threads: int, usable: int, visible: int, given: str | None = None) -> list[int]:
        chosen = []
        monkeypatch.setattr(torch, "set_num_threads", chosen.append)
        monkeypatch.setattr(torch, "get_num_threads", lambda: [torch_threads, *chosen][-1])
        monkeypatch.setattr(devices, "usable_cores", lambda: usable)
        monkeypatch.setattr(devices, "visible_cores", lambda: visible)
        monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
        if given:
            monkeypatch.setenv("OMP_NUM_THREADS", given)
        return chosen

    return change


@pytest.mark.parametrize(
    "given, place, threads",
    [
        (None, Ranks(0, 2, 0, 2), 4),
        ("1", Ranks(0, 3, 0, 3), 2),  # torchrun sets 1
        ("1", Ranks(0, 4, 0, 2), 4),  # on two machines
        ("1", Ranks(0, 16, 0, 16), 1),
        ("3", Ranks(0, 2, 0, 2), None),  # the user's
        ("1", Ranks(), None),
        ("1", Ranks(0, 2, 0, 1), None),  # the user's, one process on each of two machines
    ],
)
def test_ranks_share_the_cores_of_their_machine(set_threads, given, place, threads):
    chosen = set_threads(8, usable=8, visible=8, given=given)
    devices.select_device("cpu", place)
    assert chosen == ([threads] if threads else [])


@pytest.mark.parametrize("torch_threads, usable, given, shown", [
    (16, 2, None, "2 threads by the CPU quota"),
    (16, 1, None, "1 thread by the CPU quota"),
    (1, 2, None, "1 thread"),  # such as a program's or a forked child's
    (16, 16, None, "16 threads"),
    (5, 2, "5", "5 threads"),  # the user's
])  # fmt: skip
def test_threads_are_limited_to_the_quota_and_the_log_says_so(
    set_threads, monkeypatch, torch_threads, usable, given, shown
):
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: False)
    for name, why in (("auto", "torch found no accelerator"), ("cpu", "as --device says")):
        set_threads(torch_threads, usable, 16, given)
        assert devices.select_device(name) == (CPU, f"{why}; {shown}")
