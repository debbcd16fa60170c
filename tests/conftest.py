"""Fixtures that several test files use."""

import contextlib
import functools
import json
import logging
import os
import shutil
import signal
import struct
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import loopback
import made_up
import numpy as np
import pytest
from filelock import FileLock

import train
from neural_lib.data import catalog
from neural_lib.system import cli

ROOT = Path(__file__).resolve().parents[1]


def pytest_configure(config):
    # Threads gain nothing on images this small, and beside another busy program they wait for each other: with two, the
    # suite took three times as long beside a benchmark as alone. Set before any test file imports torch.
    os.environ.setdefault("OMP_NUM_THREADS", "1")


@pytest.hookimpl(tryfirst=True)  # before pytest leaves out what is marked slow
def pytest_collection_modifyitems(items):
    cases = Counter()
    for item in items:
        if few := item.get_closest_marker("few"):
            cases[item.parent, item.originalname] += 1
            if cases[item.parent, item.originalname] > few.args[0]:
                item.add_marker(pytest.mark.slow)


@pytest.fixture(autouse=True, scope="session")
def _own_surroundings(tmp_path_factory):
    """No test asks a proxy, finds a display by chance or leaves something in the user's cache folder."""
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        monkeypatch.setenv("no_proxy", "*")
        monkeypatch.delenv("DISPLAY", raising=False)
        monkeypatch.delenv("WAYLAND_DISPLAY", raising=False)
        yield


@pytest.fixture(autouse=True)
def _own_log():
    """No test inherits the handlers that another one set up: they write to a stream that is closed."""
    yield
    os.environ.pop("TORCH_LOGS_FORMAT", None)
    log, root = logging.getLogger("neural_lib"), logging.getLogger()
    root.handlers = [each for each in root.handlers if not isinstance(each, cli._LibraryHandler)]
    log.handlers, log.propagate = [], True
    log.setLevel(logging.NOTSET)


@pytest.fixture
def made_up_kmnist(monkeypatch) -> dict[str, bytes]:
    """Files that pass for the official KMNIST during a test; the test decides where they are."""
    files = made_up.make_files()
    openml = ("openml", "Kuzushiji-MNIST", 1, (28, 28), made_up.TEST_SIZE)
    change_kmnist(
        monkeypatch,
        sha256=made_up.sha256(files),
        train_size=made_up.TRAIN_SIZE,
        test_size=made_up.TEST_SIZE,
        sources=catalog.DATASETS["kmnist"].sources | {"openml.org": openml},
    )
    return files


def change_dataset(monkeypatch, name: str, **changes) -> None:
    """Let a data set be described otherwise until the test ends."""
    monkeypatch.setitem(catalog.DATASETS, name, replace(catalog.DATASETS[name], **changes))


def change_kmnist(monkeypatch, **changes) -> None:
    change_dataset(monkeypatch, "kmnist", **changes)


@pytest.fixture
def images():
    """300 made-up images in memory."""
    import torch

    from neural_lib.data.images import ImageTensors

    pixels, labels = made_up.make_images(300, seed=0)
    return ImageTensors(torch.from_numpy(pixels).unsqueeze(1), torch.from_numpy(labels).long())


@pytest.fixture
def kmnist_dir(made_up_kmnist, tmp_path) -> Path:
    """A data folder that holds the made-up KMNIST."""
    made_up.write_files(made_up_kmnist, tmp_path / "data" / "KMNIST" / "raw")
    return tmp_path / "data"


@pytest.fixture
def no_network(monkeypatch) -> None:
    """Neither of KMNIST's two sources, first.example and second.example, can be reached."""
    from neural_lib.data import download

    def unreachable(folder):
        raise OSError("no route to host")

    monkeypatch.setitem(download.FETCHERS, "unreachable", unreachable)
    change_kmnist(monkeypatch, sources={"first.example": ("unreachable",), "second.example": ("unreachable",)})


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
    """300 digits to train on and to validate, 100 to test, in this process."""
    use_few_digits(monkeypatch, train_size=300, test_size=100)


def use_few_digits(monkeypatch, train_size: int, test_size: int) -> None:
    """Cut the digits to their first images, until the test ends."""
    from neural_lib.data.download import READERS

    every = {train: load_every_digit(train) for train in (True, False)}
    few = {True: train_size, False: test_size}

    def read(folder, info, train):
        return tuple(array[: few[train]] for array in every[train])

    monkeypatch.setitem(READERS, "digits", read)
    change_dataset(monkeypatch, "digits", train_size=train_size, test_size=test_size)


@functools.cache
def load_every_digit(train: bool) -> tuple[np.ndarray, np.ndarray]:
    from neural_lib.data.download import read_digits

    return read_digits(Path(), catalog.DATASETS["digits"], train)


@pytest.fixture(scope="session")
def make_once(tmp_path_factory):
    """make_once(name, make) calls make(folder) in one of xdist's workers and returns that folder in each of them."""
    base = tmp_path_factory.getbasetemp()
    shared = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base

    def make_once(name: str, make: Callable[[Path], object]) -> Path:
        with FileLock(shared / f"{name}.lock"):
            if not (shared / name).exists():
                folder = tmp_path_factory.mktemp(f"making-{name}")
                make(folder)
                folder.rename(shared / name)
        return shared / name

    return make_once


@pytest.fixture(scope="session")
def digits_model(make_once) -> Path:
    """A model that reads about 95 % of the digits right."""

    def make(folder: Path) -> None:
        arguments = ["-d", "digits", "--epochs", "5", "--batch-size", "48", "--optimizer", "adamw", "--lr", "0.008"]
        arguments += ["--schedule", "one-cycle", "--weight-decay", "0.01", "--label-smoothing", "0.1", "--quiet"]
        outputs = ["--model", str(folder / "model.pth"), "--plot", str(folder / "plot.png")]
        with pytest.MonkeyPatch.context() as monkeypatch:
            leave_out_figures(monkeypatch)
            assert cli.run(train.main, "train.py", [*arguments, *outputs]) == 0

    return make_once("digits", make) / "model.pth"


# no sandbox: root has none, and the pages that are opened are this project's and load nothing
BROWSER_FLAGS = ("--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking")


@pytest.fixture(scope="session")
def browser(tmp_path_factory):
    """Headless Chromium, driven by the selenium package."""
    pytest.importorskip("selenium", reason="the selenium package is not installed: pip install selenium")
    if not (shutil.which("chromium") and shutil.which("chromedriver")):
        pytest.skip("no chromium and chromedriver here: apt-get install chromium chromium-driver")
    from selenium import webdriver

    options = webdriver.ChromeOptions()
    folder = tmp_path_factory.mktemp("chromium")
    for flag in (*BROWSER_FLAGS, "--window-size=1200,1000", f"--user-data-dir={folder}"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    downloads = {"download.default_directory": str(folder), "download.prompt_for_download": False}
    options.add_experimental_option("prefs", downloads)
    driver = webdriver.Chrome(options, webdriver.ChromeService(shutil.which("chromedriver")))
    driver.downloads = folder
    yield driver
    driver.quit()


@pytest.fixture
def open_page(browser):
    """open_page(path) opens an HTML file in the browser; afterwards its console must be empty."""

    def open_page(path: Path):
        for kind in ("browser", "performance"):
            browser.get_log(kind)  # entries of earlier tests
        browser.get(path.as_uri())
        return browser

    yield open_page
    assert browser.get_log("browser") == []


def requests_of(browser, path: Path) -> list[str]:
    """What an opened page has requested, besides itself and what is in it."""
    messages = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
    sent = [each["params"] for each in messages if each["method"] == "Network.requestWillBeSent"]
    page = path.as_uri()
    requested = [each["request"]["url"] for each in sent if each["documentURL"] == page]  # not the browser's own
    assert page in requested
    return [url for url in requested if url != page and not url.startswith("data:")]


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

    from neural_lib import checkpoint

    content = {name: value for name, value in torch.load(path, weights_only=True).items() if name not in without}
    path.write_bytes(checkpoint.archive_bytes(content | change, checkpoint.MODEL_FORMAT))


@contextlib.contextmanager
def killed_after_saving(times: int) -> Iterator[None]:
    """A block in which train.py dies after writing checkpoint.pth for the n-th time, before anything is exported."""
    from neural_lib.training.outputs import Outputs

    save, numbers = Outputs.save_checkpoint, iter(range(1, 10**6))

    def die(self):
        save(self)
        if next(numbers) == times:
            raise SystemExit("killed")

    with pytest.MonkeyPatch.context() as patched, pytest.raises(SystemExit):
        patched.setattr(Outputs, "save_checkpoint", die)
        yield


def mind_ctrl_c() -> None:
    """For a child process: what a shell starts in the background ignores SIGINT, and so would its children."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def leave_out_figures(monkeypatch) -> None:
    """Write a few bytes in the place of each figure."""
    from matplotlib.figure import Figure

    from neural_lib.evaluation import plots

    for name in ("plot_results", "plot_confusion"):
        monkeypatch.setattr(plots, name, lambda *_: Figure())
    monkeypatch.setattr(Figure, "savefig", lambda self, handle, **_: handle.write(b"not drawn"))


@pytest.fixture
def run_train(tmp_path, monkeypatch, capfd, request):
    """Run train.main in this process and an empty folder; returns exit status, stdout, stderr.

    matplotlib's figures are left out, which take longer than to learn small data, unless the test is marked `figures`.
    """
    monkeypatch.chdir(tmp_path)
    if not request.node.get_closest_marker("figures"):
        leave_out_figures(monkeypatch)

    def run(*arguments):
        status = cli.run(train.main, "train.py", [str(argument) for argument in arguments])
        return status, *capfd.readouterr()

    return run


@pytest.fixture
def stop_at(monkeypatch):
    """Let a signal arrive before the n-th check: before an epoch's first step, after each, ..., in validation."""

    from neural_lib.system.signals import GracefulStop

    check = GracefulStop.check

    def stop(count: int, signum: int = 2) -> None:
        numbers = iter(range(1, 10**6))

        def counted(self, signum_of_any=None) -> None:
            if next(numbers) == count:
                self.signum = signum
            check(self, signum_of_any)

        monkeypatch.setattr(GracefulStop, "check", counted)

    return stop


@pytest.fixture
def run_without_torch(run_python):
    """Run a script's main where importing torch is an error: what it still answers, it answers before that."""
    code = """
import sys
sys.modules["torch"] = None
script = __import__(sys.argv[1])
from neural_lib.system import cli
sys.exit(cli.run(script.main, f"{sys.argv[1]}.py", sys.argv[2:]))
"""
    return lambda script, *arguments: run_python("-c", code, script, *arguments)
