import os
import platform
import sys
from pathlib import Path

import pytest

from neural_lib.system import environment
from neural_lib.system.environment import Ranks, available_memory, ranks_from_environment, usable_cores
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


@pytest.mark.parametrize("visible, usable, variables, expected", [
    (16, 2, {}, "2"),
    (2, 2, {}, None),  # no quota
    (16, 2, {"OMP_NUM_THREADS": "5"}, "5"),
    (16, 2, {"WORLD_SIZE": "2"}, None),  # ranks: see devices
])  # fmt: skip
def test_libraries_start_no_more_threads_than_the_quota_allows(monkeypatch, visible, usable, variables, expected):
    monkeypatch.setenv("MALLOC_TRIM_THRESHOLD_", "131072")  # so that this process's malloc stays as it is
    monkeypatch.setattr(environment, "visible_cores", lambda: visible)
    monkeypatch.setattr(environment, "usable_cores", lambda: usable)
    for name in ("GOMP_SPINCOUNT", "OMP_NUM_THREADS", "WORLD_SIZE"):
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    environment.tune_for_cpu()
    assert os.environ.get("OMP_NUM_THREADS") == expected


# --- the limits of control groups ---

V2 = "30 23 0:26 / /sys/fs/cgroup rw,nosuid shared:4 - cgroup2 cgroup2 rw,nsdelegate"
V2_BESIDE_V1 = V2.replace("/sys/fs/cgroup", "/sys/fs/cgroup/unified")  # systemd's hybrid: it has no controllers
V1_CPU = "33 25 0:29 {top} /sys/fs/cgroup/cpu,cpuacct rw shared:9 - cgroup cgroup rw,cpu,cpuacct"
V1_MEMORY = "36 25 0:32 {top} /sys/fs/cgroup/memory rw shared:12 - cgroup cgroup rw,memory"
OTHERS = ["22 27 0:5 / /dev rw shared:2 - devtmpfs udev rw", "25 23 0:22 / /sys/fs/cgroup ro - tmpfs tmpfs ro,mode=755"]
UNLIMITED_V1 = 9223372036854771712


@pytest.fixture
def system(tmp_path, monkeypatch):
    """A made-up Linux system with 16 cores and 8 GB of free memory; returns its root folder."""
    monkeypatch.setattr(environment, "visible_cores", lambda: 16)

    def make(groups: str, mounts: list[str], files: dict[str, object]) -> Path:
        made = {
            "proc/self/cgroup": groups,
            "proc/self/mountinfo": "\n".join([*OTHERS, *mounts]),
            "proc/meminfo": "MemTotal: 16000000 kB\nMemAvailable: 8000000 kB\n",
            **{f"sys/fs/cgroup/{name}": f"{content}\n" for name, content in files.items()},
        }
        for name, content in made.items():
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name).write_text(content)
        return tmp_path

    return make


def v1_cpu(folder: str, quota: int) -> dict[str, int]:
    """The files of a group of version 1; quota: microseconds of 100,000."""
    folder = f"cpu,cpuacct/{folder}"
    return {f"{folder}cpu.cfs_quota_us": quota, f"{folder}cpu.cfs_period_us": 100_000}


def memory(folder: str, limit: object, used: int, cache: int, version: int = 2) -> dict[str, object]:
    """The files of a group: limit, use, and cache that can be freed, bytes."""
    if version == 2:
        stat = f"anon 7\ninactive_file {cache}\nactive_file 9"
        return {f"{folder}memory.max": limit, f"{folder}memory.current": used, f"{folder}memory.stat": stat}
    folder = f"memory/{folder}"
    stat = f"cache 8\ninactive_file 1\ntotal_inactive_file {cache}"
    return {
        f"{folder}memory.limit_in_bytes": limit,
        f"{folder}memory.usage_in_bytes": used,
        f"{folder}memory.stat": stat,
    }


@pytest.mark.parametrize("groups, mounts, files, cores", [
    ("0::/\n", [V2], {"cpu.max": "200000 100000"}, 2),  # a container with a namespace
    ("0::/\n", [V2], {"cpu.max": "max 100000"}, 16),
    ("0::/\n", [V2], {"cpu.max": "10000 100000"}, 1),  # at least one
    ("0::/\n", [V2], {"cpu.max": "250000 100000"}, 3),  # rounded up
    ("0::/\n", [V2], {"cpu.max": "9900000 100000"}, 16),  # not more than there are
    ("0::/job/step\n", [V2], {"job/cpu.max": "300000 100000", "job/step/cpu.max": "max 100000"}, 3),
    ("0::/job/step\n", [V2], {"job/cpu.max": "300000 100000", "job/step/cpu.max": "100000 50000"}, 2),
    ("0::/job\n", [V2], {"other/cpu.max": "100000 100000"}, 16),
    # a container without a namespace: the path is the host's, and the container's group is mounted as the top
    ("4:cpu,cpuacct:/docker/ab\n", [V1_CPU.format(top="/docker/ab")], v1_cpu("", 150_000), 2),
    ("4:cpu,cpuacct:/docker/ab/in\n", [V1_CPU.format(top="/docker/ab")], v1_cpu("in/", 400_000), 4),
    ("4:cpu,cpuacct:/../other\n", [V1_CPU.format(top="/")], v1_cpu("", 400_000) | v1_cpu("../other/", 1), 4),
    ("4:cpu,cpuacct:/a/b\n", [V1_CPU.format(top="/")], v1_cpu("a/", 500_000) | v1_cpu("a/b/", -1), 5),
    ("4:cpu,cpuacct:/a\n", [V1_CPU.format(top="/")], v1_cpu("", -1) | v1_cpu("a/", -1), 16),
    ("4:cpu,cpuacct:/a\n1:name=systemd:/a\n0::/a\n", [V1_CPU.format(top="/"), V2_BESIDE_V1],
     {**v1_cpu("a/", 200_000), "unified/a/cgroup.procs": 1}, 2),
    ("garbage", ["garbage"], {"cpu.max": "200000 100000"}, 16),
])  # fmt: skip
def test_cores_are_limited_by_the_quotas_of_all_groups_around_the_process(system, groups, mounts, files, cores):
    assert usable_cores(system(groups, mounts, files)) == cores


@pytest.mark.parametrize("groups, mounts, files, free", [
    ("0::/\n", [V2], memory("", "max", 10, 0), 8_192_000_000),
    ("0::/\n", [V2], memory("", 1000, 700, 200), 500),
    ("0::/\n", [V2], memory("", 1000, 1700, 200), 0),
    ("0::/job/step\n", [V2], memory("job/", 5000, 700, 200) | memory("job/step/", "max", 600, 100), 4500),
    ("0::/job/step\n", [V2], memory("job/", 5000, 4000, 0) | memory("job/step/", 4000, 100, 0), 1000),
    ("5:memory:/docker/ab\n", [V1_MEMORY.format(top="/docker/ab")], memory("", 1000, 700, 200, 1), 500),
    ("5:memory:/s/job\n", [V1_MEMORY.format(top="/")],
     memory("s/", 900, 700, 200, 1) | memory("s/job/", UNLIMITED_V1, 700, 200, 1), 400),
    ("5:memory:/a\n0::/a\n", [V1_MEMORY.format(top="/"), V2_BESIDE_V1],
     memory("a/", 1000, 100, 0, 1) | {"unified/a/cgroup.procs": 1}, 900),
    ("garbage", ["garbage"], {}, 8_192_000_000),
])  # fmt: skip
def test_free_memory_is_limited_by_all_groups_around_the_process(system, groups, mounts, files, free):
    assert available_memory(system(groups, mounts, files)) == free


def test_a_system_without_proc_limits_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(environment, "visible_cores", lambda: 16)
    assert (usable_cores(tmp_path), available_memory(tmp_path)) == (16, sys.maxsize)


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
