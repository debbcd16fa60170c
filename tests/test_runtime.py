import os
import platform
import sys

import pytest
import torch

from neural_lib import runtime

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
    monkeypatch.setattr(runtime, "computes_bfloat16", lambda device: native)
    precision, reason = runtime.select_precision(name, CPU)
    assert precision == expected
    if name == "auto":
        assert reason == ("the cpu computes it natively" if native else "the cpu isn't known to compute bf16 natively")


@pytest.mark.parametrize(
    "has, native", [({"avx512_bf16": True}, True), ({"amx_bf16": True}, True), ({"avx2": True}, False)]
)
def test_a_cpu_is_asked_for_its_instructions(monkeypatch, has, native):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: has, raising=False)
    assert runtime.computes_bfloat16(CPU) is native


@pytest.mark.skipif(not os.path.exists("/proc/cpuinfo"), reason="/proc/cpuinfo is Linux's")
def test_torch_and_the_kernel_agree_on_bfloat16():
    with open("/proc/cpuinfo") as file:
        told = {"avx512_bf16", "amx_bf16"} & set(file.read().split())
    if not hasattr(torch.cpu, "get_capabilities"):
        pytest.skip("this torch can't tell")
    assert runtime.computes_bfloat16(CPU) is bool(told)


def test_autocast_is_on_for_bfloat16_alone():
    for precision, dtype in (("bf16", torch.bfloat16), ("fp32", torch.float32)):
        with runtime.autocast(CPU, precision):
            assert torch.nn.functional.linear(torch.ones(1, 2), torch.ones(3, 2)).dtype == dtype


TUNED = "import os, sys; from neural_lib import runtime; runtime.tune_for_cpu(); assert 'torch' not in sys.modules\n"


def spin_count(run_python, **environment) -> str:
    done = run_python("-c", TUNED + "print(os.environ.get('GOMP_SPINCOUNT'))", **environment)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_threads_wait_briefly_unless_the_user_says_otherwise(run_python, monkeypatch):
    monkeypatch.delenv("GOMP_SPINCOUNT", raising=False)
    monkeypatch.delenv("OMP_WAIT_POLICY", raising=False)
    assert spin_count(run_python) == runtime.SPIN_COUNT
    assert spin_count(run_python, GOMP_SPINCOUNT="77") == "77"
    assert spin_count(run_python, OMP_WAIT_POLICY="active") == "None"


@pytest.mark.skipif(
    sys.platform != "linux" or platform.libc_ver()[0] != "glibc", reason="glibc's malloc alone is tuned"
)
def test_memory_of_a_step_is_kept_for_the_next_unless_the_user_says_otherwise(run_python, monkeypatch):
    for name in ("MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_", "GLIBC_TUNABLES"):
        monkeypatch.delenv(name, raising=False)
    # freed and taken again, as a step's tensors are: 4 MB, a thousand pages
    code = """
import resource, numpy
for _ in range(3): numpy.ones(500_000), numpy.ones(500_000)
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(50): numpy.ones(500_000), numpy.ones(500_000)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""
    none = {}
    something_else = {"GLIBC_TUNABLES": "glibc.malloc.tcache_count=7"}
    own = {"GLIBC_TUNABLES": "glibc.malloc.trim_threshold=131072"}
    older = {"MALLOC_TRIM_THRESHOLD_": "131072"}
    tuned = [
        int(run_python("-c", TUNED + code, **environment).stdout) < 2000
        for environment in (none, something_else, own, older)
    ]
    assert tuned == [True, True, False, False]
