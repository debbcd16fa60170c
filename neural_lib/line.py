"""What process 0 and the others let each other know outside of training: that something is to come, or that it ends.

Through the store that their launcher keeps, in which one can wait for longer than a collective operation may take.
"""

import contextlib
import os
import socket
import time
from collections.abc import Callable
from datetime import timedelta
from typing import TYPE_CHECKING

from neural_lib.errors import ProcessLostError

if TYPE_CHECKING:
    from torch.distributed import Store

    from neural_lib.interrupts import Stop

ALONE_LIMIT = timedelta(hours=1)  # for what process 0 does alone: a download, the test, the figures
SAVING_LIMIT = timedelta(seconds=25)  # for it to save its state after a signal; torchrun kills 30 s after one
LAST_WORD_LIMIT = timedelta(seconds=5)  # for it to say that it ends
HEARD_LIMIT = timedelta(seconds=2)  # for the others to hear that; the store may go with it
POLL = 0.02  # seconds between two looks

FIRST, END, HERE, LEFT = "process 0", "end", "here", "left"  # keys in the store


class Ended(Exception):
    """Process 0 has nothing more to tell."""


class Line:
    """Between process 0, which sets keys in the store, and the others, which wait for them."""

    def __init__(self, store: "Store", rank: int, count: int) -> None:
        self.store, self.rank, self.count = store, rank, count
        self.first = ""  # host and number of process 0, once it is there

    def introduce(self, device: str) -> None:
        """Say which kind of device all are to compute on, and who process 0 is."""
        self.say(FIRST, f"{socket.gethostname()} {os.getpid()}")
        self.say("device", device)

    def first_has_gone(self) -> bool:
        """Whether process 0, which was there, has ended; of one on another machine that is taken for granted."""
        host, _, process = self.first.partition(" ")
        try:
            if host == socket.gethostname():
                os.kill(int(process), 0)
        except ProcessLookupError:
            return True
        except OSError:  # no right to ask: it lives
            return False
        return host not in ("", socket.gethostname())

    def meet(self, limit: timedelta, stop: "Stop | None" = None) -> None:
        """Wait until all are here. Raises ProcessLostError where they aren't in time, else as wait_for does."""
        self.store.add(HERE, 1)

        def here() -> int:
            return self.store.add(HERE, 0)

        try:
            self._wait_until(lambda: here() >= self.count, stop, limit)
        except TimeoutError:
            seconds = f"{limit.total_seconds():g} s"
            raise ProcessLostError(f"only {here()} of {self.count} processes have come within {seconds}") from None
        self.first = self.store.get(FIRST).decode()

    def say(self, key: str, value: str = "") -> None:
        """Set a key, for whoever waits for it."""
        self.store.set(key, value)

    def wait_for(self, key: str, stop: "Stop | None" = None, limit: timedelta = ALONE_LIMIT) -> str:
        """What process 0 says under this key, as soon as it does.

        Raises Ended where it ends instead, StoppedBetweenSteps after a signal that `stop` has noted, ProcessLostError
        where it says nothing in time.
        """
        try:
            self._wait_until(lambda: self.store.check([key]), stop, limit)
        except TimeoutError:
            raise ProcessLostError(f"process 0 of {self.count} says nothing any more") from None
        return self.store.get(key).decode()

    def _wait_until(self, is_so: Callable[[], bool], stop: "Stop | None", limit: timedelta) -> None:
        end = time.monotonic() + limit.total_seconds()
        while not is_so():
            if self.store.check([END]):
                raise Ended
            if stop:
                stop.check()
            if time.monotonic() > end:
                raise TimeoutError
            time.sleep(POLL)

    def ends(self, limit: timedelta) -> bool:
        """Wait until process 0, once it was there, says that it ends; whether it did."""
        with contextlib.suppress(ProcessLostError, RuntimeError):  # a store that has gone
            try:
                if self.first:
                    self.wait_for("nothing else", limit=limit)
            except Ended:
                return True
        return False

    def leave(self, lost: bool) -> None:
        """Say the last word: process 0 that it ends, and it waits for the others' that they have heard it.

        lost: whether one of them has gone already, which is not waited for.
        """
        with contextlib.suppress(RuntimeError):
            if self.rank:
                self.store.add(LEFT, 1)
                return
            self.say(END)
            end = time.monotonic() + (0 if lost else HEARD_LIMIT.total_seconds())
            while self.store.add(LEFT, 0) < self.count - 1 and time.monotonic() < end:
                time.sleep(POLL)
