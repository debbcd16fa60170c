"""What the processes beside process 0 do: they train with it whatever it trains, and leave all else to it."""

import logging
from typing import TYPE_CHECKING, NamedTuple

from neural_lib import cli, devices, interrupts, line, machine, runtime
from neural_lib.errors import ProcessLostError, RunError, UserError
from neural_lib.launch import Place

if TYPE_CHECKING:
    from neural_lib.config import TrainConfig
    from neural_lib.state import TrainingState


class Training(NamedTuple):
    """What process 0 tells the others before each run; before the first one it tells them the images to train on."""

    config: "TrainConfig"
    resumed: "TrainingState | None"  # where to begin, if not at the beginning
    compiles: bool  # as --compile


def follow(place: Place) -> int:
    """Train with process 0 until it ends, with whatever status; returns 0, or 1 where a process was lost.

    Process 0 tells what there is to tell, but for what it can't know: that it has gone itself, which process 1 tells in
    a RunError, or that this one failed, in a RunError or a UserError.
    """
    logging.getLogger("neural_lib").addHandler(logging.NullHandler())
    machine.tune_for_cpu()
    interrupts.heed_only_first()
    with interrupts.noted() as stop:
        group = runtime.Group(place)
        lost = True
        try:
            _train_along(group, stop)
            lost = False
        except ProcessLostError as error:
            told = group.line.ends(line.LAST_WORD_LIMIT)
            if place.rank == 1 and not told:
                raise RunError(f"{error}: process 0, it seems; --resume goes on with the last state it saved") from None
            return 1
        except (UserError, RunError, RuntimeError, MemoryError) as error:
            kind, reason = (UserError, error) if isinstance(error, UserError) else (RunError, cli.reason_of(error))
            raise kind(f"process {place.rank} of {place.count}: {reason}") from None
        finally:
            group.leave(lost)
    return 0


def _train_along(group: runtime.Group, stop: interrupts.Stop) -> None:
    if (kind := group.device_type(stop)) is None:
        return
    machine.share_cores(group.place)
    device, _ = devices.select_device(kind, group.place)

    from neural_lib.callbacks import BestEpoch, EndTogether
    from neural_lib.datasets import DATASETS
    from neural_lib.experiment import Experiment
    from neural_lib.loaders import ImageTensors
    from neural_lib.saver import restore

    group.join(device)
    if (images := group.hear(stop)) is None:
        return
    images = ImageTensors(*images, device)
    while (training := group.hear(stop)) is not None:
        experiment = Experiment(training.config, DATASETS[training.config.dataset], images, group)
        if training.resumed:
            restore(training.resumed, experiment, BestEpoch(experiment.model))
        if training.compiles:
            experiment.model.compile()
        try:
            experiment.fit([EndTogether(group)], stop=stop)
        except ProcessLostError:
            raise
        except RunError:  # the loss of all became NaN: process 0 tells, and perhaps goes on with its next run
            continue
        except interrupts.StoppedBetweenSteps:
            if not group.line.ends(line.SAVING_LIMIT):
                raise ProcessLostError(f"process 0 of {group.count} does not end") from None
            return
