import os

import pytest
import torch

from neural_lib import devices
from neural_lib.devices import Ranks
from neural_lib.errors import UserError

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
def test_auto_takes_bfloat16_only_where_it_is_native_and_says_so(monkeypatch, native, name, expected):
    monkeypatch.setattr(devices, "computes_bfloat16", lambda device: native)
    precision, reason = devices.select_precision(name, CPU)
    assert precision == expected
    if name == "auto":
        assert reason == ("the cpu computes it natively" if native else "the cpu isn't known to compute bf16 natively")


@pytest.mark.parametrize(
    "has, native", [({"avx512_bf16": True}, True), ({"amx_bf16": True}, True), ({"avx2": True}, False)]
)
def test_a_cpu_is_asked_for_its_instructions(monkeypatch, has, native):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: has, raising=False)
    assert devices.computes_bfloat16(CPU) is native


@pytest.mark.skipif(not os.path.exists("/proc/cpuinfo"), reason="/proc/cpuinfo is Linux's")
def test_torch_and_the_kernel_agree_on_bfloat16():
    with open("/proc/cpuinfo") as file:
        told = {"avx512_bf16", "amx_bf16"} & set(file.read().split())
    if not hasattr(torch.cpu, "get_capabilities"):
        pytest.skip("this torch can't tell")
    assert devices.computes_bfloat16(CPU) is bool(told)


def test_autocast_is_on_for_bfloat16_alone():
    for precision, dtype in (("bf16", torch.bfloat16), ("fp32", torch.float32)):
        with devices.autocast(CPU, precision):
            assert torch.nn.functional.linear(torch.ones(1, 2), torch.ones(3, 2)).dtype == dtype


# --- several processes on a machine ---


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


def test_an_accelerator_that_processes_can_not_share_is_for_one_alone(accelerator):
    accelerator("mps")
    assert devices.select_device("auto")[0].type == "mps"
    assert devices.select_device("auto", Ranks(0, 2, 0, 2))[0].type == "cpu"
    with pytest.raises(UserError, match="--device mps: for one process alone; start several with --device cpu"):
        devices.select_device("mps", Ranks(0, 2, 0, 2))


NAMES = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE")


@pytest.fixture
def environment(monkeypatch):
    def change(**values: object) -> None:
        for name in NAMES:
            monkeypatch.delenv(name, raising=False)
        for name, value in values.items():
            monkeypatch.setenv(name, str(value))

    return change


def test_without_a_launcher_a_process_is_alone(environment):
    for values in ({}, {"WORLD_SIZE": 1}, {"RANK": 0, "WORLD_SIZE": 1, "LOCAL_RANK": 0, "LOCAL_WORLD_SIZE": 1}):
        environment(**values)
        assert devices.ranks_from_environment() == Ranks(0, 1, 0, 1)


def test_torchrun_tells_a_process_its_rank(environment):
    environment(RANK=5, WORLD_SIZE=8, LOCAL_RANK=1, LOCAL_WORLD_SIZE=4)
    assert devices.ranks_from_environment() == Ranks(rank=5, world_size=8, local_rank=1, local_world_size=4)


def test_a_launcher_that_knows_no_machines_has_one(environment):
    environment(RANK=1, WORLD_SIZE=2)
    assert devices.ranks_from_environment() == Ranks(1, 2, 1, 2)


@pytest.mark.parametrize("values, told", [
    ({"WORLD_SIZE": 4}, "RANK is not set, WORLD_SIZE 4"),
    ({"WORLD_SIZE": 4, "RANK": 4}, "RANK 4, WORLD_SIZE 4"),
    ({"WORLD_SIZE": "many", "RANK": 0}, "RANK 0, WORLD_SIZE many"),
    ({"WORLD_SIZE": 2, "RANK": -1}, "RANK -1, WORLD_SIZE 2"),
    ({"WORLD_SIZE": 2, "RANK": 0, "LOCAL_RANK": 2, "LOCAL_WORLD_SIZE": 2}, "LOCAL_RANK 2, LOCAL_WORLD_SIZE 2"),
])  # fmt: skip
def test_an_environment_that_is_no_launchers_is_refused(environment, values, told):
    environment(**values)
    with pytest.raises(UserError, match=f"can't tell the rank of this process: .*{told}.*; start with torchrun"):
        devices.ranks_from_environment()
