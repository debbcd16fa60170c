"""The kinds of failure that end a script with one line instead of a traceback."""


class UserError(Exception):
    """An argument, a path or a file that can't be used. The script ends with exit status 2."""

    exit_status = 2


class RunError(Exception):
    """A failure at run time. The script ends with exit status 1."""

    exit_status = 1


class DivergedError(RunError):
    """A loss became NaN or infinite; in all ranks alike."""

    @classmethod
    def of(cls, part: str, loss: float, epoch: int, lr: float, step: int = 0) -> "DivergedError":
        """The error for a loss of part "training", at a step counted from 1, or "validation", with advice."""
        where = f"epoch {epoch}, step {step}" if step else f"epoch {epoch}"
        return cls(f"the {part} loss became {loss} at {where}; try a lower --lr than {lr:g}")


class Interrupted(RunError):
    """A signal ended the run, such as Ctrl-C's SIGINT (2); the message says what has been saved.

    The script ends with exit status 128 and the signal's number, as a shell reports it.
    """

    def __init__(self, message: str, signum: int = 2) -> None:
        super().__init__(message)
        self.exit_status = 128 + signum
