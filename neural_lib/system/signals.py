"""Signals that end a run: Ctrl-C, a scheduler's SIGTERM or its warning (SIGUSR1, SIGUSR2), a terminal's SIGHUP."""

import contextlib
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from types import FrameType

SIGNAL_NAMES = ("SIGINT", "SIGTERM", "SIGHUP", "SIGUSR1", "SIGUSR2")
SIGNALS = [getattr(signal, name) for name in SIGNAL_NAMES if hasattr(signal, name)]
REPEATED_WITHIN = 2.0  # seconds; under a launcher: it passes on a signal that its processes have got already


class Stopped(KeyboardInterrupt):
    """A signal has arrived; `signum` says which."""

    def __init__(self, signum: int) -> None:
        super().__init__(signum)
        self.signum = signum


class StoppedBetweenSteps(Stopped):
    """Raised by GracefulStop.check, between two steps: nothing is half done."""


class GracefulStop:
    """A block in which a signal takes effect only in `check`, between two steps, which raises StoppedBetweenSteps.

    A second signal ends the process immediately. A launcher such as torchrun repeats signals; there later ones don't,
    unless they come more than REPEATED_WITHIN seconds after the first (raise_on_signals).
    """

    def __init__(self) -> None:
        self.signum = 0  # the signal that was received; 0: none
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
        """Raise StoppedBetweenSteps if a signal has been received, or another rank's is given."""
        if signum or self.signum:
            raise StoppedBetweenSteps(signum or self.signum)


_launched = False


@contextlib.contextmanager
def raise_on_signals(launched: bool = False) -> Iterator[None]:
    """Within the block each of the signals raises Stopped immediately.

    launched: by torchrun, as one of several processes. Then only the first signal counts, because the launcher repeats
    it; but one that comes later than REPEATED_WITHIN ends this process, even if it waits for a rank that has ended.
    """
    global _launched
    seen = []

    def stop(signum: int, _: FrameType | None) -> None:
        seen.append(signum)
        if not launched or len(seen) == 1:
            raise Stopped(signum)

    _launched = launched
    try:
        with _handle(stop), _watch() if launched else contextlib.nullcontext():
            yield
    finally:
        if launched:
            ignore_signals()


def ignore_signals() -> None:
    """Ignore all further signals: this process is already ending."""
    if threading.current_thread() is threading.main_thread():
        for each in SIGNALS:
            signal.signal(each, signal.SIG_IGN)


@contextlib.contextmanager
def _watch() -> Iterator[None]:
    # a thread of its own: while the main one waits in a collective operation, no Python handler runs
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    readable, writable = os.pipe()
    os.set_blocking(writable, False)
    before = signal.set_wakeup_fd(writable, warn_on_full_buffer=False)

    def watch() -> None:
        first = None
        while signum := os.read(readable, 1)[0]:
            if first and time.monotonic() - first > REPEATED_WITHIN:
                print(f"ended by signal {signum}, while waiting for another rank", file=sys.stderr, flush=True)
                os._exit(128 + signum)
            first = first or time.monotonic()

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield
    finally:
        signal.set_wakeup_fd(before)
        os.write(writable, b"\0")
        thread.join()
        os.close(readable)
        os.close(writable)


@contextlib.contextmanager
def _handle(handler: Callable[[int, FrameType | None], None]) -> Iterator[Callable[[], None]]:
    # yields what puts the handlers back that were there before
    if threading.current_thread() is not threading.main_thread():  # where Python lets nobody handle signals
        yield lambda: None
        return
    # a signal that is ignored, as nohup ignores SIGHUP, stays ignored
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
