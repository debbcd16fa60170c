import io
import logging
import warnings

import pytest

from neural_lib.system import cli, signals
from neural_lib.system.errors import RunError, UserError


def ending_with(error):
    def main(argv):
        raise error

    return main


@pytest.mark.parametrize("error, status, message", [
    (UserError("--lr must\nbe more"), 2, "--lr must be more"),
    (RunError("no route"), 1, "no route"),
    (OSError(28, "No space left on device", "output/model.pth"), 1, "output/model.pth: No space left on device"),
    (ImportError("libGL.so.1: cannot open"), 1,
     "a package is missing or incomplete (libGL.so.1: cannot open); see Troubles in README.md"),
    (RuntimeError("operator torchvision::nms does not exist"), 1,
     "torch and torchvision don't fit together; see Troubles in README.md"),
    (RuntimeError("[gloo/transport/tcp/pair.cc:534] Connection closed by peer [127.0.0.1]:3"), 1,
     "the connection to another rank was lost; torchrun's report names the one that failed first"),
    (MemoryError(), 1, "out of memory; a smaller --batch-size or --width, or fewer --samples, need less"),
    (RuntimeError("[enforce fail at alloc_cpu.cpp:121] DefaultCPUAllocator: can't allocate memory: you tried..."), 1,
     "out of memory; a smaller --batch-size or --width, or fewer --samples, need less"),
    (KeyboardInterrupt(), 130, "interrupted"),
])  # fmt: skip
def test_a_failure_is_one_line_and_a_status(capsys, error, status, message):
    assert cli.run(ending_with(error), "script.py", []) == status
    assert capsys.readouterr() == ("", f"script.py: error: {message}\n")


def test_a_signal_while_a_class_is_made_is_an_interruption(capsys):
    """As in the import of a library: Python 3.11 raises another error from that of the signal."""

    class Named:
        def __set_name__(self, owner, name):
            raise signals.Stopped(15)

    def main(argv) -> None:
        type("Owner", (), {"name": Named()})

    assert cli.run(main, "script.py", []) == 128 + 15
    assert capsys.readouterr() == ("", "script.py: error: interrupted\n")


@pytest.mark.parametrize("error", [
    RuntimeError("a defect of ours"),
    ValueError("another"),
    ImportError("cannot import name 'typo'", name="neural_lib.lenet"),
])  # fmt: skip
def test_a_defect_keeps_its_traceback(error):
    with pytest.raises(type(error)):
        cli.run(ending_with(error), "script.py", [])


def test_a_missing_package_is_one_line(run_without_torch):
    done = run_without_torch("train", "-d", "digits")
    assert done.returncode == 1
    assert done.stderr.startswith("train.py: error: a package is missing") and done.stderr.count("\n") == 1


@pytest.mark.parametrize("quiet, out", [(False, "[INFO] hello\n"), (True, "")])
def test_information_goes_to_stdout_and_warnings_to_stderr(capsys, quiet, out):
    cli.set_up_logging(quiet)
    log = logging.getLogger("neural_lib.some.module")
    log.info("hello")
    log.warning("careful")
    log.error("failed")
    assert capsys.readouterr() == (out, "[WARNING] careful\n[ERROR] failed\n")


@pytest.mark.parametrize("options, shown", [
    ({"quiet": True}, "[WARNING] test_cli: it's odd\n[WARNING] matplotlib.font_manager: building 3\n"),
    ({"leave_stdout": True}, "[WARNING] test_cli: it's odd\n[WARNING] matplotlib.font_manager: building 3\n"),
    ({"rank": 1}, ""),
])  # fmt: skip
def test_warnings_of_other_packages_are_lines_of_the_log_once(capsys, options, shown):
    warnings.simplefilter("always")
    for _ in range(2):
        cli.set_up_logging(**options)  # a second set-up replaces the first
    for _ in range(2):
        warnings.warn("it's\n  odd", UserWarning, stacklevel=1)
        logging.getLogger("matplotlib.font_manager").warning("building %d", 3)
        logging.getLogger("matplotlib.font_manager").info("found")
    assert capsys.readouterr() == ("", shown)


def test_a_warning_has_the_name_of_the_package_that_warns_and_a_wrong_one_ends_no_run(capsys, monkeypatch):
    monkeypatch.setattr(logging.getLogger(), "handlers", [])  # without pytest's, which raise errors
    cli.set_up_logging()
    for folder in ("/venv/lib/python3.12/site-packages/joblib/_parts/a.py", r"C:\Lib\site-packages\joblib\a.py"):
        warnings.showwarning(RuntimeWarning(f"slow {folder[0]}"), RuntimeWarning, folder, 1)
    logging.getLogger("a_package").warning("%d", "no number")
    assert capsys.readouterr().err == "[WARNING] joblib: slow /\n[WARNING] joblib: slow C\n"


class Terminal(io.StringIO):
    """A text stream whose isatty is true."""

    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize("stream, is_wrapped", [(Terminal(), True), (io.StringIO(), False)])
def test_a_long_message_is_wrapped_between_words_on_a_terminal_only(monkeypatch, stream, is_wrapped):
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setattr("sys.stderr", stream)
    words = [f"word-{number}" for number in range(40)] + ["/a/path/that/is/longer/than/the/terminal/" + 60 * "x"]
    cli.set_up_logging()
    logging.getLogger("neural_lib").warning("%s", " ".join(words))
    assert cli.run(ending_with(RunError(" ".join(words))), "script.py", []) == 1
    lines = stream.getvalue().splitlines()
    assert stream.getvalue().split() == ["[WARNING]", *words, "script.py:", "error:", *words]
    if is_wrapped:
        assert max(len(line) for line in lines if "/a/path" not in line) <= 80
    else:
        assert len(lines) == 2


def test_a_bare_line_has_no_level_before_it(capsys):
    cli.set_up_logging()
    logging.getLogger("neural_lib").info("a row", extra={"bare": True})
    assert capsys.readouterr().out == "a row\n"


# --- several processes ---


def test_a_rank_that_cannot_be_is_refused(capsys, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.delenv("RANK", raising=False)
    assert cli.run(lambda argv: pytest.fail("started"), "script.py", []) == 2
    assert capsys.readouterr().err.startswith("script.py: error: can't tell the rank of this process: RANK is not set")


def test_the_error_of_another_rank_than_0_has_its_number(run_python):
    code = """
from neural_lib.system import cli, errors
cli.ERROR_DELAY = 0.0
def main(argv):
    raise errors.RunError("no route")
raise SystemExit(cli.run(main, "script.py"))
"""
    done = run_python("-c", code, RANK="1", WORLD_SIZE="2")
    assert (done.returncode, done.stderr) == (1, "script.py: error: rank 1: no route\n")
