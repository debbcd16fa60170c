"""One run after the other: what a command's runs share, and how one of them is carried out."""

import logging
from dataclasses import dataclass
from functools import partial

from neural_lib import interrupts, launch, machine
from neural_lib.callbacks import AfterEpoch, BestEpoch, EarlyStopping, EndTogether, EpochTable, Progress, Recorder
from neural_lib.checkpoint import ModelFile, for_run
from neural_lib.config import TrainConfig
from neural_lib.datasets import DATASETS
from neural_lib.experiment import Experiment
from neural_lib.follower import Training
from neural_lib.loaders import ImageTensors
from neural_lib.processes import Processes
from neural_lib.runs import RunManager
from neural_lib.saver import StateFile, StateSaver, restore
from neural_lib.state import TrainingState

log = logging.getLogger(__name__)


@dataclass
class Session:
    """What the runs of a command share."""

    images: ImageTensors  # to train and to validate on
    fingerprint: str  # theirs, which a state tells
    manager: RunManager
    model_file: ModelFile
    state_file: StateFile
    processes: Processes
    training: dict  # what the model file tells of the command: checkpoint.Checkpoint.training
    compiles: bool = False  # the network, with torch.compile
    checkpoint_every: int = 0  # steps between two states, besides those after each epoch; 0: none
    quiet: bool = False  # no progress bar

    def train(self, run: tuple, config: TrainConfig, resumed: TrainingState | None = None) -> None:
        """Train one of the manager's runs, on the images less those that validate; keep its network if it is the best.

        An epoch better than all before is saved at once, but in the place of a finished run's network only when its own
        run has finished. resumed: where to begin, if not at the beginning. A signal ends it between two steps, its
        state saved.
        """
        manager, processes, device = self.manager, self.processes, self.images.images.device
        of_run = f"run {manager.number_of(run)}, " if len(manager.runs) > 1 else ""
        experiment = Experiment(config, DATASETS[config.dataset], self.images, processes)
        train_size, val_size = len(experiment.train_set), len(experiment.val_set)
        if not of_run:
            log.info("initialized the %s model", config.arch)
            log.info("%d images to train on, %d to validate", train_size, val_size)
        if processes.count > 1:
            level = logging.INFO if config.batch_size >= processes.count else logging.WARNING
            log.log(level, "%s", launch.share_in_words(config.batch_size, processes.count))
        if harder := config.regularisation():
            log.info("training, not validation, is with %s", ", ".join(harder))

        described = for_run(config, DATASETS[config.dataset], experiment.arch_args, self.training)
        save = partial(self.model_file.save, described, of_run)
        at_once = not manager.records.finished
        best = BestEpoch(experiment.model, config.monitor, on_improved=save if at_once else None)
        early = EarlyStopping(best, config.patience, config.epochs)
        behind = {}
        if resumed:
            restore(resumed, experiment, best)
            behind = {"done": resumed.measures, "seconds": resumed.seconds}
            log.info("going on with epoch %d of %d, step %d", resumed.epoch, config.epochs, resumed.step + 1)
            if at_once and best.epoch:  # what is there may be of a later epoch, or nothing
                save(best.state_dict, best.metrics)
        state_saver = StateSaver(
            self.state_file, experiment, best, early, manager, self.fingerprint, self.checkpoint_every
        )

        def keep_network() -> None:
            if not at_once:
                save(best.state_dict, best.metrics)
            self.model_file.last_try()

        watched = experiment.model, experiment.train_loader, experiment.optimizer
        with (
            interrupts.noted() as stop,
            manager.run(run, *watched, on_best=keep_network, **behind),
            Progress(config.epochs, train_size, self.quiet) as progress,
        ):
            log.info("training the network... (*: the best epoch so far, saved)")
            if self.compiles:
                log.info("torch.compile: the first batches wait for the compiler...")
                experiment.model.compile()
            start = machine.now(device)
            again, together = AfterEpoch(self.model_file.try_again), EndTogether(processes, early)
            table = EpochTable(config, manager, best, is_saved=lambda: self.model_file.waiting is None)
            processes.tell(Training(config, resumed, self.compiles))
            try:
                callbacks = [Recorder(manager), again, best, progress, table, early, together, state_saver]
                experiment.fit(callbacks, stop=stop)
            except interrupts.StoppedBetweenSteps:
                self.model_file.try_again()
                state_saver.save()
                raise
            before = f", after {resumed.seconds:.2f}s before the interruption" if resumed else ""
            log.info("total time taken to train the model: %.2fs%s", machine.now(device) - start, before)
        self.state_file.where = ""
        stop.check()  # a signal after the last step
