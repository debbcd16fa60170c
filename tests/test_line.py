"""Process 0 and another one, here in two threads, with a store that torch keeps within a process."""

import os
import socket
import subprocess
import sys
import threading
from datetime import timedelta

import pytest
from torch.distributed import HashStore

from neural_lib.errors import ProcessLostError
from neural_lib.interrupts import Stop, StoppedBetweenSteps
from neural_lib.line import Ended, Line

SHORT, LONG = timedelta(seconds=0.1), timedelta(seconds=60)


@pytest.fixture
def both() -> tuple[Line, Line]:
    store = HashStore()
    return Line(store, rank=0, count=2), Line(store, rank=1, count=2)


def test_the_others_wait_until_process_0_says_something(both):
    first, other = both
    threading.Timer(0.1, first.say, ("device", "cpu")).start()
    assert other.wait_for("device", limit=LONG) == "cpu"
    assert other.wait_for("device", limit=timedelta(0)) == "cpu"


def test_they_wait_only_so_long(both):
    with pytest.raises(ProcessLostError, match="process 0 of 2 says nothing any more"):
        both[1].wait_for("device", limit=SHORT)


def test_a_signal_ends_the_wait(both):
    stop = Stop()
    threading.Timer(0.1, setattr, (stop, "noted", 15)).start()
    with pytest.raises(StoppedBetweenSteps):
        both[1].wait_for("device", stop, limit=LONG)


def meet(first: Line, other: Line) -> None:
    first.introduce("cpu")
    waiting = threading.Thread(target=first.meet, args=(LONG,))
    waiting.start()
    other.meet(LONG)
    waiting.join(timeout=60)
    assert not waiting.is_alive()


def test_all_wait_for_all(both):
    meet(*both)
    with pytest.raises(ProcessLostError, match="only 1 of 2 processes have come within 0.1 s"):
        Line(HashStore(), rank=0, count=2).meet(SHORT)


def test_whether_process_0_lives_is_known_on_its_own_machine(both):
    other = both[1]
    assert not other.first_has_gone() and not other.ends(LONG)  # it hasn't come yet
    meet(*both)
    assert not other.first_has_gone()
    done = subprocess.run([sys.executable, "-c", "import os; print(os.getpid())"], capture_output=True, text=True)
    other.first = f"{socket.gethostname()} {int(done.stdout)}"
    assert other.first_has_gone()
    other.first = f"elsewhere {os.getpid()}"
    assert other.first_has_gone()  # whoever asks has lost the connection


def test_where_process_0_ends_they_hear_it_and_it_waits_for_that(both):
    first, other = both
    meet(first, other)
    assert not other.ends(SHORT)
    leaving = threading.Thread(target=first.leave, args=(False,))
    leaving.start()
    with pytest.raises(Ended):
        other.wait_for("message 1", limit=LONG)
    assert other.ends(LONG) and leaving.is_alive()
    other.leave(lost=False)
    leaving.join(timeout=60)
    assert not leaving.is_alive()


def test_one_that_is_lost_is_not_waited_for(both):
    meet(*both)
    both[0].leave(lost=True)
    assert both[1].ends(LONG)


def test_a_store_that_has_gone_is_no_word_from_process_0():
    class Gone:
        def check(self, *_):
            raise RuntimeError("Connection reset by peer")

        add = check

    line = Line(Gone(), rank=1, count=2)
    line.first = f"{socket.gethostname()} {os.getpid()}"
    assert not line.ends(LONG) and not line.first_has_gone()
    line.leave(lost=True)
