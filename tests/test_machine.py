import os
import platform
import sys

import pytest
import torch

from neural_lib import machine
from neural_lib.launch import Place

TUNED = "import os, sys; from neural_lib import machine; machine.tune_for_cpu(); assert 'torch' not in sys.modules\n"


def spin_count(run_python, **environment) -> str:
    done = run_python("-c", TUNED + "print(os.environ.get('GOMP_SPINCOUNT'))", **environment)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_threads_wait_briefly_unless_the_user_says_otherwise(run_python, monkeypatch):
    monkeypatch.delenv("GOMP_SPINCOUNT", raising=False)
    monkeypatch.delenv("OMP_WAIT_POLICY", raising=False)
    assert spin_count(run_python) == machine.SPIN_COUNT
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


@pytest.mark.parametrize(
    "given, place, threads",
    [
        (None, Place(0, 2, 0, 2), 4),
        ("1", Place(0, 3, 0, 3), 2),  # torchrun's own word
        ("1", Place(0, 4, 0, 2), 4),  # on two machines
        ("1", Place(0, 16, 0, 16), 1),
        ("3", Place(0, 2, 0, 2), None),  # the user's
        ("1", Place(), None),
        ("1", Place(0, 2, 0, 1), None),  # the user's, one process on each of two machines
    ],
)
def test_processes_share_the_cores_of_their_machine(monkeypatch, given, place, threads):
    asked = []
    monkeypatch.setattr(torch, "set_num_threads", asked.append)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)), raising=False)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    if given:
        monkeypatch.setenv("OMP_NUM_THREADS", given)
    machine.share_cores(place)
    assert asked == ([threads] if threads else [])
