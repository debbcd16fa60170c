"""What the processes beside process 0 do: they train with it whatever it trains, and leave all else to it."""

import contextlib
import io
import logging
from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

from neural_lib import cli, devices, interrupts, machine, runtime
from neural_lib.errors import DivergedError, ProcessLostError, RunError, UserError
from neural_lib.launch import Place
from neural_lib.line import LAST_WORD_LIMIT, SAVING_LIMIT, Ended

if TYPE_CHECKING:
    from neural_lib.config import TrainConfig
    from neural_lib.state import TrainingState


class Training(NamedTuple):
    """What process 0 tells the others before each run; before the first one it tells them the images to train on."""

    config: "TrainConfig"
    resumed: "TrainingState | None"  # where to begin, if not at the beginning
    compiles: bool  # as --compile


def follow(place: Place, parse_args: Callable[[], object]) -> int:
    """Train with process 0 until it ends, however it does; returns the exit status.

    All there is to say process 0 says; there are two things that it can't. That this process has failed is told in a
    RunError or a UserError. That process 0 has gone is told by process 1, in a RunError.

    parse_args: parses the command line. Where that ends this process, process 0 says why.
    """
    logging.getLogger("neural_lib").addHandler(logging.NullHandler())
    interrupts.heed_only_first()
    with interrupts.noted() as stop:
        try:
            with contextlib.redirect_stdout(io.StringIO()):
                parse_args()
        except UserError as error:
            stop.wait(LAST_WORD_LIMIT.total_seconds())  # torchrun ends this process as soon as process 0 has ended
            return error.exit_status
        machine.tune_for_cpu()
        group = runtime.Group(place)
        try:
            _train_along(group, stop)
        except Ended:
            return 0
        except (interrupts.StoppedBetweenSteps, ProcessLostError):
            if group.line.ends(LAST_WORD_LIMIT):
                return 0
            if place.rank == 1 and group.line.first_has_gone():
                told = f"process 0 of {place.count} has ended, or can't be reached any more"
                raise RunError(f"{told}; --resume goes on with the last state it saved, if any") from None
            return 128 + stop.noted if stop.noted else 1  # not 0, or torchrun would let process 0 wait
        except (UserError, RunError, RuntimeError, MemoryError) as error:
            kind, reason = (UserError, error) if isinstance(error, UserError) else (RunError, cli.reason_of(error))
            raise kind(f"process {place.rank} of {place.count}: {reason}") from None
        finally:
            group.leave()


def _train_along(group: runtime.Group, stop: interrupts.Stop) -> None:
    # for ever: what ends it is an error
    kind = group.device_type(stop)
    machine.share_cores(group.place)
    device, _ = devices.select_device(kind, group.place)

    from neural_lib.callbacks import BestEpoch, EndTogether
    from neural_lib.datasets import DATASETS
    from neural_lib.experiment import Experiment
    from neural_lib.loaders import ImageTensors
    from neural_lib.saver import restore

    group.join(device, stop)
    images = ImageTensors(*group.hear(stop), device)
    while True:
        training = group.hear(stop)
        experiment = Experiment(training.config, DATASETS[training.config.dataset], images, group)
        if training.resumed:
            restore(training.resumed, experiment, BestEpoch(experiment.model))
        if training.compiles:
            experiment.model.compile()
        try:
            experiment.fit([EndTogether(group)], stop=stop)
        except DivergedError:  # process 0 says so, and perhaps goes on with its next run
            continue
        except interrupts.StoppedBetweenSteps:
            group.line.ends(SAVING_LIMIT)
            raise
