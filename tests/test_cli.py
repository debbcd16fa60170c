import io
import logging

import pytest

from neural_lib import cli
from neural_lib.errors import RunError, UserError


def ending_with(error):
    def main(argv):
        raise error

    return main


@pytest.mark.parametrize("error, status, message", [
    (UserError("--lr must\nbe more"), 2, "--lr must be more"),
    (RunError("no route"), 1, "no route"),
    (OSError(28, "No space left on device", "output/model.pth"), 1, "output/model.pth: No space left on device"),
    (ImportError("libGL.so.1: cannot open"), 1,
     "a package is missing or incomplete (libGL.so.1: cannot open); see Troubleshooting in README.md"),
    (RuntimeError("operator torchvision::nms does not exist"), 1,
     "torch and torchvision don't fit together; see Troubleshooting in README.md"),
    (MemoryError(), 1, "out of memory; a smaller --batch-size or --width, or fewer --samples, need less"),
    (RuntimeError("[enforce fail at alloc_cpu.cpp:121] DefaultCPUAllocator: can't allocate memory: you tried..."), 1,
     "out of memory; a smaller --batch-size or --width, or fewer --samples, need less"),
    (KeyboardInterrupt(), 130, "interrupted"),
])  # fmt: skip
def test_a_failure_is_one_line_and_a_status(capsys, error, status, message):
    assert cli.run(ending_with(error), "script.py", []) == status
    assert capsys.readouterr() == ("", f"script.py: error: {message}\n")


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


class Terminal(io.StringIO):
    """A stream that says it is a terminal."""

    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize("stream, is_broken", [(Terminal(), True), (io.StringIO(), False)])
def test_a_long_message_is_broken_between_words_on_a_terminal_alone(monkeypatch, stream, is_broken):
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setattr("sys.stderr", stream)
    words = [f"word-{number}" for number in range(40)] + ["/a/path/that/is/longer/than/the/terminal/" + 60 * "x"]
    cli.set_up_logging()
    logging.getLogger("neural_lib").warning("%s", " ".join(words))
    assert cli.run(ending_with(RunError(" ".join(words))), "script.py", []) == 1
    lines = stream.getvalue().splitlines()
    assert stream.getvalue().split() == ["[WARNING]", *words, "script.py:", "error:", *words]
    assert (
        (max(len(line) for line in lines if "/a/path" not in line) <= 80) is is_broken if is_broken else len(lines) == 2
    )


def test_a_bare_line_has_no_level_before_it(capsys):
    cli.set_up_logging()
    logging.getLogger("neural_lib").info("a row", extra={"bare": True})
    assert capsys.readouterr().out == "a row\n"
