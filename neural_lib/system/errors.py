"""The exceptions that end a script with a message of one line instead of a traceback."""

import os
import re
from pathlib import Path

# Control characters, bytes that are no UTF-8 (as surrogates), and the backslash, so that no two texts become the same.
ESCAPED = re.compile(r"[\x00-\x1f\x7f-\x9f\ud800-\udfff%s]" % ("" if os.name == "nt" else r"\\"))


class UserError(Exception):
    """An argument, a path or a file can't be used. The script ends with exit status 2."""

    exit_status = 2


class RunError(Exception):
    """A failure at run time. The script ends with exit status 1."""

    exit_status = 1


class DivergedError(RunError):
    """A loss became NaN or infinite. All ranks raise it at the same step."""

    @classmethod
    def of(cls, part: str, loss: float, epoch: int, lr: float, step: int = 0) -> "DivergedError":
        """Build the error with its message. part: "training" or "validation". step: from 1; 0 for a whole epoch."""
        where = f"epoch {epoch}, step {step}" if step else f"epoch {epoch}"
        return cls(f"the {part} loss became {loss} at {where}; try a lower --lr than {lr:g}")


class Interrupted(RunError):
    """A signal such as Ctrl-C's SIGINT (2) ended the run; the message names what has been saved.

    The script ends with exit status 128 + signum, as shells report it.
    """

    def __init__(self, message: str, signum: int = 2) -> None:
        super().__init__(message)
        self.exit_status = 128 + signum


def printable(path: str | Path) -> str:
    """A path as text on one line, with ? for characters that can't be printed."""
    return "".join(each if each.isprintable() else "?" for each in str(path))


def escaped(text: str) -> str:
    """A text for files that programs read, with escapes for control characters and bytes that are no UTF-8.

    They are those of Python: \\x1b, \\udcff; and \\\\ for a backslash, except on Windows, whose paths are full of them.
    Everything else stays.
    """
    return ESCAPED.sub(lambda found: found[0].encode("unicode_escape").decode(), text)
