import os

import pytest
import torch

from neural_lib import devices

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
