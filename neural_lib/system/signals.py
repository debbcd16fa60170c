"""Signals that end a run: Ctrl-C, a scheduler's SIGTERM or its warning (SIGUSR1, SIGUSR2), a terminal's SIGHUP."""

import contextlib
import signal
import threading
from collections.abc import Callable, Iterator
from types import FrameType

SIGNAL_NAMES = ("SIGINT", "SIGTERM", "SIGHUP", "SIGUSR1", "SIGUSR2")
SIGNALS = [getattr(signal, name) for name in SIGNAL_NAMES if hasattr(signal, name)]


class Stopped(KeyboardInterrupt):
    """A signal has arrived. signum: its number."""

    def __init__(self, signum: int) -> None:
        super().__init__(signum)
        self.signum = signum


class StoppedBetweenSteps(Stopped):
    """A signal took effect in GracefulStop.check, between two steps, so no step is half done."""


class GracefulStop:
    """A block in which signals don't interrupt; after a signal the next call of `check` raises StoppedBetweenSteps.

    A second signal ends the process immediately, except under a launcher such as torchrun, which repeats signals.
    """

    def __init__(self) -> None:
        self.signum = 0  # the first signal that was received; 0: none
        self._handled = contextlib.ExitStack()

    def __enter__(self) -> "GracefulStop":
        def note(signum: int, _: FrameType | None) -> None:
            self.signum = self.signum or signum
            if not _launched:
                restore()

        restore = self._handled.enter_context(_handle(note))
        return self

    def __exit__(self, *_) -> None:
        self._handled.close()

    def check(self, signum: int | None = None) -> None:
        """Raise StoppedBetweenSteps if a signal has been received. signum: a signal that another rank received."""
        if signum or self.signum:
            raise StoppedBetweenSteps(signum or self.signum)


_launched = False


@contextlib.contextmanager
def raise_on_signals(launched: bool = False) -> Iterator[None]:
    """A block in which each of SIGNALS raises Stopped immediately.

    launched: this is one of several processes that torchrun started. Then only the first signal raises, because the
    launcher repeats it; the launcher kills a process that waits in vain for another rank.
    """
    global _launched
    received = []

    def stop(signum: int, _: FrameType | None) -> None:
        received.append(signum)
        if not launched or len(received) == 1:
            raise Stopped(signum)

    _launched = launched
    try:
        with _handle(stop):
            yield
    finally:
        if launched:
            ignore_signals()


def ignore_signals() -> None:
    """Ignore all further signals, because this process is already ending."""
    if threading.current_thread() is threading.main_thread():
        for each in SIGNALS:
            signal.signal(each, signal.SIG_IGN)


@contextlib.contextmanager
def _handle(handler: Callable[[int, FrameType | None], None]) -> Iterator[Callable[[], None]]:
    # Handle SIGNALS within the block; yields a function that restores the previous handlers.
    if threading.current_thread() is not threading.main_thread():  # Python allows signal handlers only there
        yield lambda: None
        return
    # A signal that is ignored, as nohup ignores SIGHUP, stays ignored.
    before = {each: old for each in SIGNALS if (old := signal.getsignal(each)) not in (signal.SIG_IGN, None)}

    def restore() -> None:
        for each, old in before.items():
            signal.signal(each, old)

    for each in before:
        signal.signal(each, handler)
    try:
        yield restore
    finally:
        restore()
