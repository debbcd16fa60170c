"""The exceptions that end a script with a message of one line instead of a traceback."""

from pathlib import Path


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
