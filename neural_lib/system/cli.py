"""Command-line behaviour of both scripts: arguments, log format, errors as one line, exit statuses."""

import argparse
import contextlib
import logging
import os
import re
import shutil
import signal
import sys
import textwrap
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NoReturn, TextIO

from neural_lib.system import signals
from neural_lib.system.environment import ranks_from_environment
from neural_lib.system.errors import Interrupted, RunError, UserError
from neural_lib.system.files import remove_empty_folders

ERROR_DELAY = 3.0  # seconds that other ranks wait, so that rank 0's error is printed first
CONNECTION_ERRORS = ("gloo", "nccl", "connection closed", "caused pair closure")  # words in torch.distributed's errors


@contextlib.contextmanager
def failures_explained(summary: Callable[[], str] = str) -> Iterator[None]:
    """A block in which a failure that a user can cause becomes an error of one line; a defect is passed on.

    summary: text that is added if the block is interrupted or loses its connection to another rank, such as
    "; output/model.pth keeps epoch 3".
    """
    try:
        yield
    except BaseException as error:
        if ranks_from_environment().world_size > 1:  # torchrun will send a signal to end what ends already
            signals.ignore_signals()
        cause = error  # Python 3.11 raises RuntimeError from an exception in __set_name__, as in a library's import
        while cause and not isinstance(cause, KeyboardInterrupt):
            cause = cause.__cause__
        if cause:
            raise Interrupted(f"interrupted{summary()}", getattr(cause, "signum", signal.SIGINT)) from None
        if isinstance(error, ImportError) and not (error.name or "").startswith("neural_lib"):
            raise RunError(_reason_of_import_error(error)) from None
        if isinstance(error, RuntimeError | MemoryError):
            raise RunError(reason_of(error) + (summary() if is_lost_connection(error) else "")) from None
        raise


class _HelpFormatter(argparse.RawDescriptionHelpFormatter):
    """argparse's formatter, but an option with several values is shown as "N ..." instead of "N [N ...]"."""

    def _format_args(self, action: argparse.Action, default_metavar: str) -> str:
        if action.nargs == argparse.ONE_OR_MORE:
            return f"{action.metavar} ..."
        return super()._format_args(action, default_metavar)


class ArgumentParser(argparse.ArgumentParser):
    """argparse, but a wrong argument is answered with one line, and no option may be cut short."""

    def __init__(self, doc: str, **kwargs) -> None:
        kwargs.setdefault("usage", "%(prog)s [options]")
        super().__init__(description=doc, formatter_class=_HelpFormatter, allow_abbrev=False, **kwargs)

    def error(self, message: str) -> NoReturn:
        raise UserError(f"{message} (--help lists the options)")


def _wrapped(text: str, stream: TextIO) -> str:
    # long lines are broken between words on a terminal; files and pipes get them unchanged
    if not stream.isatty():
        return text
    width = shutil.get_terminal_size().columns
    keep = {"break_on_hyphens": False, "break_long_words": False, "subsequent_indent": "    "}
    lines = text.split("\n")
    return "\n".join(
        textwrap.fill(line, width, **keep) if len(line) > width and not line.startswith(" ") else line for line in lines
    )


class _Formatter(logging.Formatter):
    """ "[INFO] ..."; a record with the attribute `bare`, such as a row of a table, is its message alone."""

    def __init__(self, stream: TextIO, line: str = "[%(levelname)s] %(message)s") -> None:
        super().__init__(line)
        self.stream = stream

    def format(self, record: logging.LogRecord) -> str:
        return _wrapped(record.getMessage() if hasattr(record, "bare") else super().format(record), self.stream)


class _Handler(logging.StreamHandler):
    """logging's handler, but a failing output, such as a pipe whose reader has ended, ends the run."""

    def emit(self, record: logging.LogRecord) -> None:
        tqdm = sys.modules.get("tqdm")  # if tqdm is not loaded, there is no progress bar to hide
        with tqdm.tqdm.external_write_mode(self.stream) if tqdm else contextlib.nullcontext():
            super().emit(record)

    def handleError(self, record: logging.LogRecord) -> NoReturn:
        raise  # the exception that logging is handling


class _LibraryHandler(_Handler):
    """Writes the warnings of other packages as lines of the log, each once."""

    def __init__(self, stream: TextIO) -> None:
        super().__init__(stream)
        self.setLevel(logging.WARNING)
        self.setFormatter(_Formatter(stream, "[%(levelname)s] %(name)s: %(message)s"))
        self.seen: set[str] = set()

    def filter(self, record: logging.LogRecord) -> bool:
        text = f"{record.name} {record.msg} {record.args}"
        is_new = text not in self.seen
        self.seen.add(text)
        return is_new

    def handleError(self, record: logging.LogRecord) -> None:
        pass  # a package's warning that can't be written ends no run


def _log_warning(message: Warning, category: type, filename: str, lineno: int, *_) -> None:
    # replaces warnings.showwarning: the warning becomes a record that is named after the package which warns
    package = re.search(r"-packages[/\\](\w+)", filename)
    name, text = package[1] if package else Path(filename).stem, " ".join(str(message).split())
    logging.getLogger().handle(logging.LogRecord(name, logging.WARNING, filename, lineno, text, None, None))


def set_up_logging(quiet: bool = False, leave_stdout: bool = False, rank: int = 0) -> None:
    """Set up the project's loggers: '[INFO] ...' on stdout, unless quiet, and warnings and errors on stderr.

    The warnings of other packages appear among them. leave_stdout: write all messages to stderr, so that programs can
    read stdout. Ranks other than 0 log nothing.
    """
    log, root = logging.getLogger("neural_lib"), logging.getLogger()
    warnings.showwarning = _log_warning
    if "TORCH_LOGS" not in os.environ:  # torch's log has a handler of its own, which is set up when torch is imported
        os.environ.setdefault("TORCH_LOGS_FORMAT", "[%(levelname)s] torch: %(message)s")
    root.handlers = [each for each in root.handlers if not isinstance(each, _LibraryHandler)]  # of an earlier call
    root.addHandler(logging.NullHandler() if rank else _LibraryHandler(sys.stderr))
    if rank:
        log.addHandler(logging.NullHandler())
        log.propagate = False
        return
    log.setLevel(logging.INFO)
    log.propagate = False
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):  # characters that the terminal can't show are escaped
            stream.reconfigure(errors="backslashreplace")
    to_stdout, to_stderr = _Handler(sys.stderr if leave_stdout else sys.stdout), _Handler(sys.stderr)
    to_stdout.addFilter(lambda record: record.levelno < logging.WARNING and not quiet)
    to_stderr.setLevel(logging.WARNING)
    for handler in (to_stdout, to_stderr):
        handler.setFormatter(_Formatter(handler.stream))
    log.handlers = [to_stdout, to_stderr]


def run(main: Callable[[Sequence[str] | None], int], prog: str, argv: Sequence[str] | None = None) -> int:
    """Call a script's main and return its exit status; a failure that a user can cause becomes one line on stderr.

    prog: the script's name, which begins that line. argv: the arguments, the command line's where None.

    2 for what the user gave, 1 for what failed at run time, 128 + n after signal n (130 after Ctrl-C).
    Anything else is a defect of the project and keeps its traceback.
    """
    os.environ.pop("MPLBACKEND", None)  # a notebook sets it to a backend that may be missing; drawing files needs none
    try:
        ranks = ranks_from_environment()
    except UserError as error:
        return _fail(prog, str(error), error.exit_status)
    try:
        with signals.raise_on_signals(launched=ranks.world_size > 1), failures_explained():
            return main(argv)
    except (UserError, RunError) as error:
        return _fail(prog, str(error), error.exit_status, ranks.rank, isinstance(error, Interrupted))
    except BrokenPipeError:  # stdout was closed, as by `train.py | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # Python flushes stdout at its exit
        return 1
    except OSError as error:
        return _fail(prog, f"{error.filename or 'input or output'}: {error.strerror or error}", 1, ranks.rank)
    except KeyboardInterrupt:  # a second signal, while the first was being reported
        return _fail(prog, "interrupted", 130, ranks.rank, True)
    finally:
        remove_empty_folders()


def is_lost_connection(error: BaseException) -> bool:
    """True if an error says that another rank has ended or can't be reached."""
    text = str(error).lower()
    return isinstance(error, RuntimeError) and (
        type(error).__name__.startswith("Dist") or any(each in text for each in CONNECTION_ERRORS)
    )


def reason_of(error: Exception) -> str:
    """Why a run failed, in one line for its user; raises an error that is a defect of the project again."""
    if isinstance(error, RunError):
        return str(error)
    if is_lost_connection(error):
        return "the connection to another rank was lost; torchrun's report names the one that failed first"
    # torch says these things in a plain RuntimeError; its allocators' words for "out of memory" differ by device
    if "torchvision::nms" in str(error):
        return "torch and torchvision don't fit together; see Troubles in README.md"
    if type(error).__module__.startswith(("torch._dynamo", "torch._inductor")):
        return f"--compile: torch.compile fails here ({textwrap.shorten(str(error), 160)}); leave that option out"
    words = ("out of memory", "can't allocate memory", "STATUS_ALLOC_FAILED")  # the last one is cuBLAS's and cuDNN's
    if isinstance(error, MemoryError) or any(each in str(error) for each in words):
        return "out of memory; a smaller --batch-size or --width, or fewer --samples, need less"
    raise error


def _reason_of_import_error(error: ImportError) -> str:
    if "failed to map segment" in str(error) or "allocate memory" in str(error):
        return f"too little memory to load a library ({error}); ulimit -v shows the limit"
    return f"a package is missing or incomplete ({error}); see Troubles in README.md"


def _fail(prog: str, message: str, status: int, rank: int = 0, is_interrupted: bool = False) -> int:
    if rank and not is_interrupted:
        # wait: most often rank 0 fails in the same way and reports it, and torchrun ends this rank meanwhile
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        time.sleep(ERROR_DELAY)
        print(f"{prog}: error: rank {rank}: {' '.join(message.split())}", file=sys.stderr)
    elif not rank:
        with contextlib.suppress(OSError):  # the terminal has been closed
            print(_wrapped(f"{prog}: error: {' '.join(message.split())}", sys.stderr), file=sys.stderr)
    return status
