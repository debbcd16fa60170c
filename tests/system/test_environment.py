import os
import platform
import sys

import pytest

from neural_lib.system import environment
from neural_lib.system.environment import Ranks, ranks_from_environment
from neural_lib.system.errors import UserError

TUNE = """
import sys
from neural_lib.system import environment
environment.tune_for_cpu()
assert 'torch' not in sys.modules
"""


@pytest.mark.parametrize("by_user, expected", [
    ({}, environment.SPIN_COUNT), ({"GOMP_SPINCOUNT": "77"}, "77"), ({"OMP_WAIT_POLICY": "active"}, None),
])  # fmt: skip
def test_threads_wait_briefly_unless_the_users_environment_differs(monkeypatch, by_user, expected):
    names = ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY")
    monkeypatch.setenv("MALLOC_TRIM_THRESHOLD_", "131072")  # so that this process's malloc stays as it is
    for name in names:
        monkeypatch.setenv(name, "")  # so that monkeypatch restores it
        monkeypatch.delenv(name)
    for name, value in by_user.items():
        monkeypatch.setenv(name, value)
    environment.tune_for_cpu()
    assert os.environ.get("GOMP_SPINCOUNT") == expected


@pytest.mark.skipif(
    sys.platform != "linux" or platform.libc_ver()[0] != "glibc", reason="glibc's malloc alone is tuned"
)
def test_memory_of_a_step_is_reused_in_the_next_unless_the_users_environment_differs(run_python, monkeypatch):
    for name in ("MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_", "GLIBC_TUNABLES"):
        monkeypatch.delenv(name, raising=False)
    # freed and allocated again, as a step's tensors are: 4 MB, a thousand pages
    code = """
import resource, numpy
for _ in range(3): numpy.ones(500_000), numpy.ones(500_000)
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(50): numpy.ones(500_000), numpy.ones(500_000)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""

    def is_tuned(**variables: str) -> bool:
        return int(run_python("-c", TUNE + code, **variables).stdout) < 2000

    assert is_tuned(GLIBC_TUNABLES="glibc.malloc.tcache_count=7")  # of something else
    assert not is_tuned(GLIBC_TUNABLES="glibc.malloc.trim_threshold=131072")
    assert not is_tuned(MALLOC_TRIM_THRESHOLD_="131072")


# --- the ranks that a launcher starts ---


NAMES = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE")


@pytest.fixture
def set_environment(monkeypatch):
    def change(**values: object) -> None:
        for name in NAMES:
            monkeypatch.delenv(name, raising=False)
        for name, value in values.items():
            monkeypatch.setenv(name, str(value))

    return change


def test_without_a_launcher_there_is_one_process(set_environment):
    for values in ({}, {"WORLD_SIZE": 1}, {"RANK": 0, "WORLD_SIZE": 1, "LOCAL_RANK": 0, "LOCAL_WORLD_SIZE": 1}):
        set_environment(**values)
        assert ranks_from_environment() == Ranks(0, 1, 0, 1)


def test_torchruns_environment_has_the_rank(set_environment):
    set_environment(RANK=5, WORLD_SIZE=8, LOCAL_RANK=1, LOCAL_WORLD_SIZE=4)
    assert ranks_from_environment() == Ranks(rank=5, world_size=8, local_rank=1, local_world_size=4)


def test_without_local_ranks_there_is_one_machine(set_environment):
    set_environment(RANK=1, WORLD_SIZE=2)
    assert ranks_from_environment() == Ranks(1, 2, 1, 2)


@pytest.mark.parametrize("values, shown", [
    ({"WORLD_SIZE": 4}, "RANK is not set, WORLD_SIZE 4"),
    ({"WORLD_SIZE": 4, "RANK": 4}, "RANK 4, WORLD_SIZE 4"),
    ({"WORLD_SIZE": "many", "RANK": 0}, "RANK 0, WORLD_SIZE many"),
    ({"WORLD_SIZE": 2, "RANK": -1}, "RANK -1, WORLD_SIZE 2"),
    ({"WORLD_SIZE": 2, "RANK": 0, "LOCAL_RANK": 2, "LOCAL_WORLD_SIZE": 2}, "LOCAL_RANK 2, LOCAL_WORLD_SIZE 2"),
])  # fmt: skip
def test_an_impossible_rank_is_refused(set_environment, values, shown):
    set_environment(**values)
    with pytest.raises(UserError, match=f"can't tell the rank of this process: .*{shown}.*; start with torchrun"):
        ranks_from_environment()
