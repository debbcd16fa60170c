"""Several processes (ranks) of the same program, started by torchrun; the project's only use of torch.distributed.

Each rank takes its shard of every batch; gradients and scores are summed over the ranks. Only rank 0 downloads, logs,
draws and writes. With one process they change nothing: rank 0 of 1.
"""

import contextlib
import gc
import inspect
import logging
import os
import time
from collections.abc import Callable, Iterator
from datetime import timedelta

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from neural_lib.system.environment import Ranks
from neural_lib.system.errors import RunError, UserError

log = logging.getLogger(__name__)
JOIN_LIMIT = timedelta(minutes=2)  # for the ranks to connect; they start at the same time
WAIT_LIMIT = timedelta(minutes=30)  # for an operation of all ranks, such as waiting while rank 0 downloads
LEAVE_LIMIT = timedelta(seconds=2)  # how long rank 0 waits until the other ranks have left
PADDING = -100  # the label of an image that is not scored: torch's losses ignore it by default


@contextlib.contextmanager
def process_group(ranks: Ranks, device: torch.device) -> Iterator[None]:
    """A block in which the ranks are connected: by NCCL if they compute on GPUs, otherwise by Gloo.

    Raises RunError if they don't meet within JOIN_LIMIT.
    """
    if ranks.world_size == 1:
        yield
        return
    host, port, start = os.environ.get("MASTER_ADDR"), os.environ.get("MASTER_PORT", ""), time.monotonic()
    if not host or not port.isdecimal():
        raise UserError(f"no address of rank 0: MASTER_ADDR {host}, MASTER_PORT {port or None}; start with torchrun")
    backend, options = ("gloo", {}) if device.type == "cpu" else ("cpu:gloo,cuda:nccl", {"device_id": device})
    try:
        store, _, _ = next(dist.rendezvous("env://", timeout=JOIN_LIMIT))
        # after a restart (torchrun --max-restarts) the store still holds the keys of the ended processes
        store = dist.PrefixStore(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0"), store)
        place = {"rank": ranks.rank, "world_size": ranks.world_size}
        dist.init_process_group(backend, store=store, timeout=WAIT_LIMIT, **place, **options)
    except (RuntimeError, OSError) as error:
        why = f"in {time.monotonic() - start:.0f} s ({str(error).partition(chr(10))[0]})"
        raise RunError(
            f"rank {ranks.rank} of {ranks.world_size} could not connect to the other ranks at {host}:{port} {why}"
        ) from None
    try:
        yield
    finally:
        gc.collect()  # replicas, which refer to the group, are parts of reference cycles
        with contextlib.suppress(RuntimeError):  # another rank, or the store, has ended already
            _leave(store, ranks)


def _leave(store: dist.Store, ranks: Ranks) -> None:
    # rank 0 leaves last, because the other ranks may still read from its sockets
    end = time.monotonic() + LEAVE_LIMIT.total_seconds()
    if ranks.rank:
        dist.destroy_process_group()
        store.add("left", 1)
        return
    while store.add("left", 0) < ranks.world_size - 1 and time.monotonic() < end:
        time.sleep(0.02)
    dist.destroy_process_group()


def rank() -> int:
    """This process's number among all, from 0."""
    return dist.get_rank() if dist.is_initialized() else 0


def world_size() -> int:
    """How many processes there are."""
    return dist.get_world_size() if dist.is_initialized() else 1


def is_main() -> bool:
    """True in rank 0, the only process that downloads, logs, draws and writes."""
    return rank() == 0


def broadcast(value: object) -> object:
    """Rank 0's value, in every rank."""
    if not dist.is_initialized():
        return value
    values = [value]
    dist.broadcast_object_list(values, device="cpu")
    return values[0]


def from_rank_0(function: Callable, *arguments: object) -> object:
    """The result of a function that rank 0 alone calls, in every rank."""
    return broadcast(function(*arguments) if is_main() else None)


def all_reduce(tensor: Tensor) -> Tensor:
    """The sum of the ranks' tensors, computed in place."""
    if dist.is_initialized():
        dist.all_reduce(tensor)
    return tensor


def any_rank(number: int) -> int:
    """The largest of the numbers that the ranks give, such as a signal's if any rank has received one."""
    if not dist.is_initialized():
        return number
    greatest = torch.tensor(number)
    dist.all_reduce(greatest, op=dist.ReduceOp.MAX)
    return int(greatest)


@contextlib.contextmanager
def all_reduce_during(tensor: Tensor) -> Iterator[None]:
    """Sum the ranks' tensors in place while the block runs; the sum is ready after it."""
    work = dist.all_reduce(tensor, async_op=True) if dist.is_initialized() else None
    yield
    if work:
        work.wait()


def shard(batch: Tensor) -> Tensor:
    """This rank's part of a batch (N, ...): every world_size-th row, starting at its rank.

    If there are fewer rows than ranks it may be the first row as padding (is_padding): every layer needs an image.
    """
    return batch[rank() :: world_size()] if rank() < len(batch) else batch[:1]


def is_padding(global_batch_size: int) -> bool:
    """True if this rank's shard of a batch of so many images is padding."""
    return rank() >= global_batch_size


def gather_rows(rows: Tensor) -> Tensor:
    """All ranks' rows (N, k), on the CPU, in their original order; each rank gives the rows of its shard."""
    if not dist.is_initialized():
        return rows
    count = int(all_reduce(torch.tensor(len(rows))))
    gathered = torch.zeros(count, *rows.shape[1:], dtype=rows.dtype)
    gathered[rank() :: world_size()] = rows  # every batch but the last has the same number of rows in each rank
    return all_reduce(gathered)


def replicate(model: nn.Module) -> nn.Module:
    """The model in DistributedDataParallel, which averages gradients over the ranks; with one process the model itself.

    Batch normalisation is synchronised on GPUs; on CPUs, for which torch has no such layer, each rank normalises its
    own shard.
    """
    if not dist.is_initialized():
        return model
    if next(model.parameters()).device.type != "cpu":
        nn.SyncBatchNorm.convert_sync_batchnorm(model)  # changes the model in place
    names = inspect.signature(DistributedDataParallel).parameters  # torch 2.15 has renamed the argument
    buffers = "forward_sync_buffers" if "forward_sync_buffers" in names else "broadcast_buffers"
    return DistributedDataParallel(model, **{buffers: False})


def broadcast_buffers(model: nn.Module) -> None:
    """Copy rank 0's buffers, the running statistics of batch normalisation, to all ranks: they are the saved ones."""
    if dist.is_initialized():
        for buffer in model.buffers():
            dist.broadcast(buffer, src=0)


def log_shard_sizes(batch_size: int) -> None:
    """Log how many images of a batch each rank gets, if there are several ranks."""
    count = world_size()
    if count > 1:
        least, most = batch_size // count, -(-batch_size // count)
        share = f"{most}" if least == most else f"{least} or {most}"
        images = f"{batch_size} image{'s' if batch_size > 1 else ''}"
        level = logging.INFO if least else logging.WARNING
        log.log(level, "batches of %s: %s in each of %d processes", images, share, count)
