"""Memory, files, threads and processes of train.py, and machines with little of them."""

import os
import shutil
import stat
import statistics
import sys
import threading
from pathlib import Path

import pytest
from conftest import ROOT

from neural_lib import checkpoint
from neural_lib.training import runs

SMALL = ("-d", "digits", "--device", "cpu", "--quiet", "--arch", "lenet-slim", "--batch-size", 32)

linux = pytest.mark.skipif(not os.path.isdir("/proc/self"), reason="/proc is Linux's")


def megabytes() -> float:
    """The memory of this process."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


@linux
@pytest.mark.slow
def test_memory_stays_flat_over_many_epochs(run_train, few_digits, monkeypatch):
    sizes, record = [], runs.RunManager.record_epoch
    monkeypatch.setattr(runs.RunManager, "record_epoch", lambda *each: (record(*each), sizes.append(megabytes())))
    assert run_train(*SMALL, "--recipe", "best", "--epochs", 200, "--lr", 1e-5)[0] == 0
    assert len(sizes) == 200
    middle, end = statistics.median(sizes[50:100]), statistics.median(sizes[150:])
    assert end - middle < 5, f"{middle:.0f} MB after 50 to 100 epochs, {end:.0f} MB after 150 to 200"


@pytest.mark.slow
@linux
def test_no_file_thread_or_process_stays_open(run_train, few_digits):
    run_train(*SMALL, "--epochs", 1, "--logdir", "runs")  # some libraries open something that stays open

    def held() -> tuple:
        children = Path(f"/proc/self/task/{os.getpid()}/children").read_text()
        return len(os.listdir("/proc/self/fd")), threading.active_count(), children

    before = held()
    run_train(*SMALL, "--epochs", 2, "--logdir", "runs")
    run_train(*SMALL, "--epochs", 1, "--lr", 1e30)  # a run that fails
    assert held() == before


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="Windows has neither HOME nor C's locale")
def test_train_needs_neither_home_nor_locale_and_writes_to_any_path(run_python, tmp_path, monkeypatch):
    for name in ("HOME", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    model = tmp_path / "a path、with ö" / "model.pth"
    outputs = ("-m", model, "-p", model.with_name("p.png"))
    surroundings = {"LANG": "C", "LC_ALL": "C", "OMP_NUM_THREADS": "1", "MPLCONFIGDIR": str(tmp_path)}
    done = run_python(ROOT / "train.py", *SMALL, "--epochs", 1, *outputs, **surroundings)
    assert done.returncode == 0, done.stderr
    assert checkpoint.load(model).dataset == "digits"


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "geteuid"), reason="Windows has no permission bits")
def test_a_source_tree_that_cannot_be_written_is_no_obstacle(run_python, tmp_path):
    source = tmp_path / "source"
    shutil.copytree(ROOT / "neural_lib", source / "neural_lib", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "train.py", source)
    folders = [source, *(path for path in source.rglob("*") if path.is_dir())]
    for path in folders:
        path.chmod(stat.S_IRUSR | stat.S_IXUSR)
    try:
        if os.geteuid() == 0:  # permission bits don't apply
            pytest.skip("root may write everywhere")
        done = run_python(source / "train.py", *SMALL, "--epochs", 1, PYTHONPATH=str(source))
        assert done.returncode == 0, done.stderr
    finally:
        for path in folders:
            path.chmod(stat.S_IRWXU)


@linux
def test_too_little_address_space_is_one_line(run_python):
    code = (
        "import resource, sys; resource.setrlimit(resource.RLIMIT_AS, (1 << 30, 1 << 30))\n"
        "import train; from neural_lib.system import cli; sys.exit(cli.run(train.main, 'train.py'))"
    )
    done = run_python("-c", code, *SMALL)
    assert done.returncode == 1 and done.stderr.count("\n") == 1
    assert done.stderr.startswith("train.py: error: too little memory to load a library (")
