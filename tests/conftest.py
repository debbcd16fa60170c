"""Fixtures that several test files use."""

import contextlib
import logging
import os
import signal
import struct
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import loopback
import made_up
import pytest

import train
from neural_lib import cli, datasets, downloads, runs

ROOT = Path(__file__).resolve().parents[1]


def pytest_configure(config):
    # Threads gain nothing on images this small, and beside another busy program they wait for each other: with two, the
    # suite took three times as long beside a benchmark as alone. Set before any test file imports torch.
    os.environ.setdefault("OMP_NUM_THREADS", "1")


@pytest.fixture(autouse=True, scope="session")
def _own_surroundings():
    """No test asks a proxy or finds a display by chance."""
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setenv("no_proxy", "*")
        monkeypatch.delenv("DISPLAY", raising=False)
        monkeypatch.delenv("WAYLAND_DISPLAY", raising=False)
        yield


@pytest.fixture(autouse=True)
def _own_log():
    """No test inherits the handlers that another one set up: they write to a stream that is closed."""
    yield
    log = logging.getLogger("neural_lib")
    log.handlers, log.propagate = [], True
    log.setLevel(logging.NOTSET)


@pytest.fixture
def made_up_kmnist(monkeypatch) -> dict[str, bytes]:
    """Files that pass for the official KMNIST during a test; the test decides where they are."""
    files = made_up.make_files()
    openml = downloads.from_openml("Kuzushiji-MNIST", 1, image_shape=(28, 28), test_size=made_up.TEST_SIZE)
    change_kmnist(
        monkeypatch,
        sha256=made_up.sha256(files),
        train_size=made_up.TRAIN_SIZE,
        test_size=made_up.TEST_SIZE,
        sources=datasets.DATASETS["kmnist"].sources | {"openml.org": openml},
    )
    return files


def change_dataset(monkeypatch, name: str, **changes) -> None:
    """Let a data set be described otherwise until the test ends."""
    monkeypatch.setitem(datasets.DATASETS, name, replace(datasets.DATASETS[name], **changes))


def change_kmnist(monkeypatch, **changes) -> None:
    change_dataset(monkeypatch, "kmnist", **changes)


@pytest.fixture
def images():
    """300 made-up images in memory."""
    import torch

    from neural_lib.loaders import ImageTensors

    pixels, labels = made_up.make_images(300, seed=0)
    return ImageTensors(torch.from_numpy(pixels).unsqueeze(1), torch.from_numpy(labels).long())


@pytest.fixture
def kmnist_dir(made_up_kmnist, tmp_path) -> Path:
    """A data folder that holds the made-up KMNIST."""
    made_up.write_files(made_up_kmnist, tmp_path / "data" / "KMNIST" / "raw")
    return tmp_path / "data"


@pytest.fixture
def cifar_batches(monkeypatch) -> dict[str, bytes]:
    """Batches that pass for the official CIFAR-10 during a test; the test decides where they are."""
    batches = made_up.make_cifar_batches()
    sizes = {"train_size": 5 * made_up.CIFAR_BATCH_SIZE, "test_size": made_up.CIFAR_BATCH_SIZE}
    change_dataset(monkeypatch, "cifar10", sha256=made_up.sha256(batches), **sizes)
    return batches


@pytest.fixture
def cifar_dir(cifar_batches, tmp_path) -> Path:
    """A data folder that holds the made-up CIFAR-10."""
    made_up.write_files(cifar_batches, tmp_path / "data" / "cifar-10-batches-py")
    return tmp_path / "data"


@pytest.fixture
def few_digits(monkeypatch) -> None:
    """300 digits to train on and to validate, 100 to test, in this process: enough where what is learned is all one."""
    few = {True: 300, False: 100}

    def read(*arguments, read_all=datasets.DATASETS["digits"].read):
        images, labels = read_all(*arguments)
        return images[: few[arguments[-1]]], labels[: few[arguments[-1]]]

    change_dataset(monkeypatch, "digits", read=read, train_size=few[True], test_size=few[False])


@pytest.fixture(scope="session")
def digits_model(tmp_path_factory) -> Path:
    """A model that reads digits, about 96 % of them right."""
    from matplotlib.figure import Figure

    path = tmp_path_factory.mktemp("digits") / "model.pth"
    arguments = ["-d", "digits", "--recipe", "fast", "--epochs", "8", "--precision", "fp32", "--quiet"]
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setattr(Figure, "savefig", lambda self, handle, **_: handle.write(b"not drawn"))
        outputs = ["--model", str(path), "--plot", str(path.with_suffix(".png"))]
        assert cli.run(train.main, "train.py", [*arguments, *outputs]) == 0
    return path


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


def shown_on_a_terminal(arguments: list[str], cwd: Path, log_too: bool) -> str:
    """What train.py writes to a terminal of 80 columns: its stderr, and its stdout as well where `log_too`."""
    import fcntl
    import pty
    import termios

    terminal, its_end = pty.openpty()
    fcntl.ioctl(its_end, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
    command = [sys.executable, str(ROOT / "train.py"), *arguments]
    process = subprocess.Popen(command, cwd=cwd, stdout=its_end if log_too else subprocess.DEVNULL, stderr=its_end)
    os.close(its_end)
    watchdog = threading.Timer(100, process.kill)
    watchdog.start()
    shown = b""
    with contextlib.suppress(OSError):  # Linux's answer to reading a terminal that nobody writes to any more
        while part := os.read(terminal, 4096):
            shown += part
    os.close(terminal)
    assert process.wait() == 0
    watchdog.cancel()
    return shown.decode()


def rewrite(path: Path, change: dict, without: Sequence[str] = ()) -> None:
    """Write a model file once more, with something else in it and the checksum of that."""
    import torch

    from neural_lib import archive, checkpoint

    content = {name: value for name, value in torch.load(path, weights_only=True).items() if name not in without}
    archive.save(content | change, path, checkpoint.KIND)


@contextlib.contextmanager
def killed_before_recording(number: int) -> Iterator[None]:
    """A block in which train.py dies when run `number` of its grid is trained and saved, before that is recorded."""
    end_run = runs.RunManager.end_run

    def die(self):
        if self.number == number:
            raise SystemExit("killed")
        end_run(self)

    with pytest.MonkeyPatch.context() as patched, pytest.raises(SystemExit):
        patched.setattr(runs.RunManager, "end_run", die)
        yield


def mind_ctrl_c() -> None:
    """For a child process: what a shell starts in the background ignores SIGINT, and so would its children."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


@pytest.fixture
def figures_drawn():
    """Asked for by a test that looks at what run_train has drawn."""


@pytest.fixture
def run_train(tmp_path, monkeypatch, capfd, request):
    """Run train.main in this process and an empty folder; returns exit status, stdout, stderr.

    matplotlib's figures are made and not drawn, which takes longer than to learn small data, unless the test asks for
    figures_drawn.
    """
    from matplotlib.figure import Figure

    monkeypatch.chdir(tmp_path)
    if "figures_drawn" not in request.fixturenames:
        monkeypatch.setattr(Figure, "savefig", lambda self, handle, **_: handle.write(b"not drawn"))

    def run(*arguments):
        status = cli.run(train.main, "train.py", [str(argument) for argument in arguments])
        return status, *capfd.readouterr()

    return run


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
