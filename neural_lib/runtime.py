"""Several processes that train together, started by PyTorch's launcher, torchrun: all that is torch.distributed.

torchrun gives them the same command, and each its place. Process 0 does all that is done once; the others train with
it, each on its part of every batch.

torch is imported inside the functions: what is refused is refused before it is loaded.
"""

import contextlib
import inspect
import time
from collections.abc import Iterator
from datetime import timedelta
from typing import TYPE_CHECKING

from neural_lib import interrupts
from neural_lib.errors import DivergedError, ProcessLostError, RunError
from neural_lib.launch import Place, attempt, meeting_point, wait_until_reached
from neural_lib.line import Line
from neural_lib.processes import ALONE, Processes

if TYPE_CHECKING:
    import torch
    from torch import Tensor

MEETING_LIMIT = timedelta(minutes=2)  # for the processes to find each other; they start at the same time
STEP_LIMIT = timedelta(minutes=10)  # for the others to come as far as this one has
AGREE_EVERY = 10  # batches between two agreements whether to stop: each costs up to a millisecond


class Group(Processes):
    """Several processes, in torch.distributed: Gloo for tensors on the CPU, NCCL for those on GPUs.

    It is made in two steps, for only process 0 knows on which kind of device to compute: a process connects to the
    store that the launcher keeps, which raises RunError where that can't be reached in time, and joins the others then.
    """

    def __init__(self, place: Place) -> None:
        import torch.distributed as dist

        self.dist, self.place, self.rank, self.count = dist, place, place.rank, place.count
        self.messages, self.checks, self.batch_size = 0, 0, 0
        self.lost = False  # another process
        (host, port), start = meeting_point(), time.monotonic()
        try:
            if self.rank:
                wait_until_reached(host, port, MEETING_LIMIT)  # or torch would print its own traces
            store, _, _ = next(dist.rendezvous("env://", timeout=MEETING_LIMIT))
        except (RuntimeError, OSError) as error:
            why = str(error).partition("\n")[0]
            told = f"did not meet the others at {host}:{port} in {time.monotonic() - start:.0f} s ({why})"
            raise RunError(f"process {self.rank} of {self.count} {told}") from None
        self.line = Line(dist.PrefixStore(f"train {attempt()}", store), self.rank, self.count)

    def device_type(self, stop: interrupts.Stop) -> str:
        """The kind of device that all compute on, as process 0 says. Raises line.Ended where it ends instead."""
        with self.connected():
            return self.line.wait_for("device", stop)

    def join(self, device: "torch.device", stop: interrupts.Stop | None = None) -> None:
        """Join the others, who compute on the same kind of device. Raises ProcessLostError where one doesn't come.

        Raises line.Ended where process 0 ends instead, StoppedBetweenSteps after a signal that `stop` has noted.
        """
        self.device = device
        backend, options = ("gloo", {}) if device.type == "cpu" else ("cpu:gloo,cuda:nccl", {"device_id": device})
        with self.connected():
            if self.rank == 0:
                self.line.introduce(device.type)
            self.line.meet(MEETING_LIMIT, stop)  # whatever ends this wait would not end the one that comes now
            self.dist.init_process_group(
                backend, store=self.line.store, rank=self.rank, world_size=self.count, timeout=STEP_LIMIT, **options
            )

    def leave(self) -> None:
        """The end of what is done together."""
        self.line.leave(self.lost)
        if self.dist.is_initialized():
            with contextlib.suppress(RuntimeError):
                self.dist.destroy_process_group()

    # --- messages ---

    def tell(self, message):
        self.messages += 1
        with self.connected():
            self.line.say(f"message {self.messages}")  # who waits for it may do so for longer than a broadcast may take
            self.dist.broadcast_object_list([message], device="cpu")

    def hear(self, stop: interrupts.Stop) -> object:
        """What process 0 tells next. Raises line.Ended where it ends instead, StoppedBetweenSteps after a signal."""
        self.messages += 1
        message = [None]
        with self.connected():
            self.line.wait_for(f"message {self.messages}", stop)
            self.dist.broadcast_object_list(message, device="cpu")
        return message[0]

    # --- training ---

    def part(self, batch):
        self.batch_size = len(batch)
        return batch[self.rank :: self.count]

    def whole(self, part):
        return self.batch_size

    def replicate(self, model):
        from torch.nn import SyncBatchNorm
        from torch.nn.parallel import DistributedDataParallel

        from neural_lib.batch_norm import share_batch_norm

        self.checks = 0
        if self.device.type == "cpu":
            share_batch_norm(model, self._sum)
        else:
            SyncBatchNorm.convert_sync_batchnorm(model)
        names = inspect.signature(DistributedDataParallel).parameters  # the older one is deprecated from torch 2.15 on
        buffers = "forward_sync_buffers" if "forward_sync_buffers" in names else "broadcast_buffers"
        replica = DistributedDataParallel(model, **{buffers: False})  # they are the same in all anyway

        def weigh(_, __, log_probs: "Tensor") -> None:
            # the replicas' gradients are averaged, but their parts may differ in size, or have no image at all
            weight = len(log_probs) * self.count / self.batch_size
            if log_probs.requires_grad and weight != 1:
                log_probs.register_hook(lambda gradient: gradient * weight)

        replica.register_forward_hook(weigh)
        return replica

    @contextlib.contextmanager
    def summed(self, sums):
        work = self.dist.all_reduce(sums, async_op=True)
        yield
        work.wait()

    def joined(self, rows):
        import torch

        count = int(self._sum(torch.tensor(len(rows))))
        whole = torch.zeros(count, *rows.shape[1:], dtype=rows.dtype)
        whole[self.rank :: self.count] = rows  # for every batch but the last was dealt out evenly
        return self._sum(whole)

    def _sum(self, tensor: "Tensor") -> "Tensor":
        # of the processes' tensors, in place
        self.dist.all_reduce(tensor)
        return tensor

    def check(self, stop):
        import torch

        self.checks += 1
        if self.checks % AGREE_EVERY == 1:
            noted = torch.tensor(stop.noted)
            self.dist.all_reduce(noted, op=self.dist.ReduceOp.MAX)
            if noted:  # a signal that came meanwhile is for the next time
                stop.noted = int(noted)
                stop.check()

    def of_first(self, value):
        import torch

        told = torch.tensor(value)
        self.dist.broadcast(told, src=0)
        return bool(told)

    # --- failures ---

    def parted_by(self, error):
        return not isinstance(error, DivergedError)

    @contextlib.contextmanager
    def connected(self) -> Iterator[None]:
        try:
            yield
        except RuntimeError as error:
            text = str(error).lower()
            if not isinstance(error, self.dist.DistError) and not any(each in text for each in ("gloo", "nccl")):
                raise
            late = "timed out" in text or "timeout" in text
            why = "does not answer any more" if late else "has ended, or can't be reached any more"
            self.lost = True
            interrupts.heed_none()  # the launcher will send one, to end what ends already
            raise ProcessLostError(f"one of the {self.count} processes {why}") from error


@contextlib.contextmanager
def together(place: Place, device: "torch.device") -> Iterator[Processes]:
    """Within the block process 0 is with the others, if any."""
    if place.count == 1:
        yield ALONE
        return
    group = Group(place)
    try:
        group.join(device)
        yield group
    finally:
        group.leave()
