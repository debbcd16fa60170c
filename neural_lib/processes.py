"""Those who train together, as whoever trains sees them: here one process, which has the whole of everything."""

import contextlib
from typing import TYPE_CHECKING

from neural_lib.interrupts import Stop

if TYPE_CHECKING:
    from torch import Tensor, nn


class Processes:
    """Those who train together: here one process, which has the whole of everything."""

    rank, count = 0, 1

    def part(self, batch: "Tensor") -> "Tensor":
        """This process's part of a batch (N, ...): every count-th, from its rank on, none where they don't suffice."""
        return batch

    def whole(self, part: "Tensor") -> int:
        """How many are in the batch that this is a part of."""
        return len(part)

    def replicate(self, model: "nn.Module") -> "nn.Module":
        """The model, whose gradients will be those of the whole batch's mean loss; training begins."""
        return model

    def summed(self, sums: "Tensor") -> contextlib.AbstractContextManager:
        """A context after which `sums`, of this process's part, are of the whole; they come together meanwhile."""
        return contextlib.nullcontext()

    def joined(self, rows: "Tensor") -> "Tensor":
        """All rows (n, k) of what was dealt out as parts, in the order in which it was before."""
        return rows

    def check(self, stop: Stop) -> None:
        """Stop where a signal has arrived: all processes, and between the same two steps."""
        stop.check()

    def connected(self) -> contextlib.AbstractContextManager:
        """A context in which an error of the connection to the others is a ProcessLostError."""
        return contextlib.nullcontext()

    def of_first(self, value: bool) -> bool:
        """What process 0 has here."""
        return value

    def tell(self, message: object) -> None:
        """Let the others, if any, hear something; process 0 alone may."""

    def parted_by(self, error: Exception) -> bool:
        """Whether, after this, the others are no more where this process is, so that they can't go on together."""
        return False


ALONE = Processes()
