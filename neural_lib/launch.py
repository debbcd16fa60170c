"""What a launcher, such as PyTorch's torchrun, tells the processes that it starts together."""

import os
import socket
import time
from datetime import timedelta
from typing import NamedTuple

from neural_lib.errors import UserError


class Place(NamedTuple):
    """A process's place among those that were started together, and among those of them on its machine."""

    rank: int = 0  # from 0
    count: int = 1
    local_rank: int = 0
    local_count: int = 1


def place() -> Place:
    """This process's place, from the environment that torchrun gives it; without that, alone.

    Raises UserError where the environment is no launcher's.
    """
    told = {name: os.environ.get(name) for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE")}
    if told["WORLD_SIZE"] in (None, "1"):
        return Place()
    said = ", ".join(f"{name} {'is not set' if value is None else value}" for name, value in told.items())
    told["LOCAL_RANK"] = told["LOCAL_RANK"] or told["RANK"]  # of another launcher, on one machine
    told["LOCAL_WORLD_SIZE"] = told["LOCAL_WORLD_SIZE"] or told["WORLD_SIZE"]
    found = [int(value) if (value or "").isdecimal() else -1 for value in told.values()]
    rank, count, local_rank, local_count = found
    if not (0 <= rank < count and 0 <= local_rank < local_count <= count):
        raise UserError(f"no place among several processes: {said}; start them with torchrun, or unset WORLD_SIZE")
    return Place(*found)


def meeting_point() -> tuple[str, int]:
    """Host and port at which the processes find each other. Raises UserError where the launcher doesn't tell."""
    host, port = os.environ.get("MASTER_ADDR"), os.environ.get("MASTER_PORT", "")
    if not host or not port.isdecimal():
        raise UserError(
            f"no place to meet: MASTER_ADDR {host}, MASTER_PORT {port or None}; start train.py with torchrun"
        )
    return host, int(port)


def attempt() -> str:
    """Which start of the processes this is, for those that torchrun starts anew (--max-restarts) keep their store."""
    return os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")


def wait_until_reached(host: str, port: int, limit: timedelta) -> None:
    """Try to connect until somebody listens there. Raises OSError where nobody does in time."""
    end = time.monotonic() + limit.total_seconds()
    while True:
        try:
            socket.create_connection((host, port), timeout=max(0.1, end - time.monotonic())).close()
            return
        except OSError:
            if time.monotonic() > end:
                raise
            time.sleep(0.1)


def share_in_words(batch_size: int, count: int) -> str:
    """How a batch is dealt out to so many processes."""
    least, most = batch_size // count, -(-batch_size // count)
    share = f"{most}" if least == most else f"{least} or {most}"
    images = f"{batch_size} image{'s' if batch_size > 1 else ''}"
    return f"batches of {images}: {share} in each of {count} processes"
