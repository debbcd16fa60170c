"""What both scripts do alike: arguments, the log's look, errors as one line, exit statuses."""

import argparse
import logging
import sys
from collections.abc import Callable, Sequence
from typing import NoReturn

from neural_lib.errors import RunError, UserError


class ArgumentParser(argparse.ArgumentParser):
    """argparse, but a wrong argument is answered with one line, and no option may be cut short."""

    def __init__(self, doc: str, **kwargs) -> None:
        super().__init__(
            description=doc, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False, **kwargs
        )

    def error(self, message: str) -> NoReturn:
        raise UserError(f"{message} (--help lists the options)")


def set_up_logging(quiet: bool = False) -> None:
    """Let the project's loggers speak: '[INFO] ...' on stdout, unless quiet, and warnings and errors on stderr."""
    log = logging.getLogger("neural_lib")
    log.setLevel(logging.INFO)
    log.propagate = False
    to_stdout, to_stderr = logging.StreamHandler(sys.stdout), logging.StreamHandler(sys.stderr)
    to_stdout.addFilter(lambda record: record.levelno < logging.WARNING and not quiet)
    to_stderr.setLevel(logging.WARNING)
    for handler in (to_stdout, to_stderr):
        handler.setFormatter(logging.Formatter("[%(levelname)s] %(message)s"))
    log.handlers = [to_stdout, to_stderr]


def run(main: Callable[[Sequence[str] | None], int], prog: str, argv: Sequence[str] | None = None) -> int:
    """Call a script's main and return its exit status; a failure that a user can cause becomes one line on stderr.

    prog: the script's name, which begins that line. argv: the arguments, the command line's where None.

    2 for what the user gave, 1 for what failed at run time, 130 after Ctrl-C. Anything else is a defect of the project
    and keeps its traceback.
    """
    try:
        return main(argv)
    except (UserError, RunError) as error:
        return _fail(prog, str(error), error.exit_status)
    except OSError as error:
        return _fail(prog, f"{error.filename or 'input or output'}: {error.strerror or error}", 1)
    except ImportError as error:
        return _fail(prog, f"a package is missing or incomplete ({error}); see Troubleshooting in README.md", 1)
    except RuntimeError as error:
        if "torchvision::nms" not in str(error):  # what torchvision says of a torch that it wasn't built for
            raise
        return _fail(prog, "torch and torchvision don't fit together; see Troubleshooting in README.md", 1)
    except MemoryError:
        return _fail(prog, "out of memory", 1)
    except KeyboardInterrupt:
        return _fail(prog, "interrupted", 130)


def _fail(prog: str, message: str, status: int) -> int:
    print(f"{prog}: error: {' '.join(message.split())}", file=sys.stderr)
    return status
