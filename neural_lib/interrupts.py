"""Signals that end a run: Ctrl-C, a scheduler's SIGTERM or its warning (SIGUSR1, SIGUSR2), a terminal's SIGHUP."""

import contextlib
import signal
import threading
import time
from collections.abc import Iterator
from types import FrameType

NAMES = ("SIGINT", "SIGTERM", "SIGHUP", "SIGUSR1", "SIGUSR2")
SIGNALS = [getattr(signal, name) for name in NAMES if hasattr(signal, name)]


class Stopped(KeyboardInterrupt):
    """A signal has arrived; `signum` says which."""

    def __init__(self, signum: int) -> None:
        super().__init__(signum)
        self.signum = signum


class StoppedBetweenSteps(Stopped):
    """The same, when somebody asked for it: nothing is half done."""


class Stop:
    """Notes the first signal, and raises StoppedBetweenSteps when asked."""

    def __init__(self) -> None:
        self.noted = 0  # the signal's number; 0: none

    def wait(self, seconds: float) -> None:
        """Wait so long, or until a signal arrives."""
        end = time.monotonic() + seconds
        while not self.noted and time.monotonic() < end:
            time.sleep(0.02)

    def check(self) -> None:
        """Raise StoppedBetweenSteps where a signal has arrived."""
        if self.noted:
            raise StoppedBetweenSteps(self.noted)


class _Heed:
    """Which signals count."""

    only_first, none = False, False


def heed_only_first() -> None:
    """From now on one signal counts: a launcher passes on what its processes may have got already."""
    _Heed.only_first = True


def heed_none() -> None:
    """From now on no signal changes anything, for this process ends already."""
    _Heed.none = True
    if threading.current_thread() is threading.main_thread():
        for each in SIGNALS:
            signal.signal(each, signal.SIG_IGN)


@contextlib.contextmanager
def raised() -> Iterator[None]:
    """Within the block each of the signals raises Stopped at once."""

    def stop(signum: int, _: FrameType | None) -> None:
        if _Heed.only_first:
            heed_none()
        raise Stopped(signum)

    with _handled(stop):
        yield


@contextlib.contextmanager
def noted() -> Iterator[Stop]:
    """Within the block the first signal is noted, for whoever asks between two steps; a second has its old effect."""
    stop = Stop()

    def note(signum: int, _: FrameType | None) -> None:
        stop.noted = signum
        if _Heed.only_first:
            heed_none()
        else:
            restore()

    with _handled(note) as restore:
        yield stop


@contextlib.contextmanager
def _handled(handler) -> Iterator:
    if threading.current_thread() is not threading.main_thread():  # where Python lets nobody handle signals
        yield lambda: None
        return
    # a signal that is ignored, as nohup ignores SIGHUP, stays ignored
    before = {each: old for each in SIGNALS if (old := signal.getsignal(each)) not in (signal.SIG_IGN, None)}

    def restore() -> None:
        for each, old in before.items():
            signal.signal(each, signal.SIG_IGN if _Heed.none else old)

    for each in before:
        signal.signal(each, handler)
    try:
        yield restore
    finally:
        restore()
