"""Fixtures that several test files use."""

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import loopback
import made_up
import pytest

from neural_lib import datasets

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(autouse=True)
def _own_cache(tmp_path_factory, monkeypatch):
    """No test reads or writes the user's memory of verified files, and none finds a display by chance."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
    monkeypatch.delenv("DISPLAY", raising=False)
    monkeypatch.delenv("WAYLAND_DISPLAY", raising=False)


@pytest.fixture
def made_up_kmnist(monkeypatch) -> dict[str, bytes]:
    """Files that pass for the official KMNIST during a test; the test decides where they are."""
    files = made_up.make_files()
    info = replace(
        datasets.DATASETS["kmnist"],
        sha256=made_up.sha256(files),
        train_size=made_up.TRAIN_SIZE,
        test_size=made_up.TEST_SIZE,
    )
    monkeypatch.setitem(datasets.DATASETS, "kmnist", info)
    return files


@pytest.fixture
def kmnist_dir(made_up_kmnist, tmp_path) -> Path:
    """A data folder that holds the made-up KMNIST."""
    made_up.write_files(made_up_kmnist, tmp_path / "data")
    return tmp_path / "data"


@pytest.fixture
def server():
    with loopback.serve() as running:
        yield running


@pytest.fixture
def run_python(tmp_path):
    """Run python with these arguments in a process of its own, in an empty folder."""

    def run(*arguments: object, **environment: str) -> subprocess.CompletedProcess:
        return subprocess.run(
            [sys.executable, *map(str, arguments)],
            cwd=tmp_path,
            env=os.environ | {"PYTHONPATH": str(ROOT)} | environment,
            capture_output=True,
            text=True,
            timeout=100,
        )

    return run


@pytest.fixture
def run_script(run_python):
    """Run a script's real command line."""
    return lambda script, *arguments, **environment: run_python(ROOT / script, *arguments, **environment)


@pytest.fixture
def run_without_torch(run_python):
    """Run a script's main where importing torch is an error: what it still answers, it answers before that."""
    code = """
import sys
sys.modules["torch"] = None
script = __import__(sys.argv[1])
from neural_lib import cli
sys.exit(cli.run(script.main, f"{sys.argv[1]}.py", sys.argv[2:]))
"""
    return lambda script, *arguments: run_python("-c", code, script, *arguments)
