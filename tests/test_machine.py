import platform
import sys

import pytest

from neural_lib import machine

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
