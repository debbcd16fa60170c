"""Progress: how far a command has come, in memory and as checkpoint.pth, the one file that --resume reads."""

import logging
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch

from neural_lib import checkpoint
from neural_lib.checkpoint import STATE_FORMAT_NAME, Checkpoint, FileFormat, archive_bytes, load_archive, versions
from neural_lib.config import EPOCH_OPTIONS, RECIPES, TrainConfig, differences, format_values, option_name
from neural_lib.data.catalog import DATASETS, FALLBACK
from neural_lib.data.custom import shows_photos
from neural_lib.data.images import Data
from neural_lib.evaluation.calibration import calibrate
from neural_lib.evaluation.scores import Scores
from neural_lib.pretrained import load_init, warn_of_init
from neural_lib.records import MEASURES
from neural_lib.system.distributed import broadcast, from_rank_0, is_main
from neural_lib.system.errors import UserError
from neural_lib.training.command import Command, check_fit, number_under_way, resumed
from neural_lib.training.run import Run, resolve
from neural_lib.training.runs import RunManager

STATE_FORMAT = FileFormat(
    name=STATE_FORMAT_NAME,
    version=5,  # version 4 counted the epochs of a run that begins from other weights from 1
    readable=(5,),
    noun="training state",
    option="",
    if_missing="train first, without --resume",
    if_damaged="delete it to start anew",
)
log = logging.getLogger(__name__)
COLUMNS = ("epoch", *MEASURES)  # of an epoch's row
HINT = "resume where it began, or give a --model in another folder"


class Progress:
    """How far a command has come: the only place that knows it, and all that checkpoint.pth holds.

    manager: the records of its runs: their rows, which have finished and which have failed. configs: of these runs,
    resolved. fingerprint: of the images that are trained on. device: its type, such as "cpu". best: the network of the
    best finished run. inits: the network whose weights the runs of each architecture begin from; empty without --init.
    """

    def __init__(
        self,
        manager: RunManager,
        configs: Sequence[TrainConfig],
        fingerprint: str = "",
        device: str = "cpu",
        inits: Mapping[str, Checkpoint] | None = None,
    ) -> None:
        self.manager, self.configs, self.fingerprint, self.device = manager, configs, fingerprint, device
        self.inits = dict(inits or {})
        manager.hyperparameters = [config.to_dict() for config in configs]
        self.best: Checkpoint | None = None
        self.run: Run | None = None  # the one that was begun last; its number is the manager's
        self.saved_run: dict | None = None  # the same as checkpoint.pth has it, until it is built again
        self.is_longer = False  # whether the runs have got more epochs than they were begun with
        self.is_photos = False  # whether the data set consists of user photos

    @property
    def position(self) -> tuple[int, int, int] | None:
        """Run, epoch and step, all from 1, at which --resume begins; None if no run is under way."""
        state = vars(self.run.state) if self.run else self.saved_run
        if not state or self.manager.number in self.manager.finished:
            return None
        return self.manager.number, state["epoch"], state["step"] + 1

    @property
    def network(self) -> Checkpoint | None:
        """The network for model.pth: of the best finished run; until one has finished, of the best epoch so far."""
        if self.best is None and self.run and self.run.state.rows:
            return self.run.best_checkpoint()
        return self.best

    def unfinished(self) -> list[tuple[int, TrainConfig, Checkpoint | None]]:
        """The number and configuration of each run that is still to be trained, the one under way first.

        The third item is the network whose weights it begins from, None without --init; if the run is resumed, it holds
        no weights.
        """
        under_way = self.position[0] if self.position else 0
        numbers = sorted(self.manager.unfinished(), key=lambda number: number != under_way)
        configs = [self.configs[number - 1] for number in numbers]
        inits = [self.inits.get(config.arch) for config in configs]
        return [
            (number, config, init.without_tensors() if init and self.is_resumed(number) else init)
            for number, config, init in zip(numbers, configs, inits, strict=True)
        ]

    def is_resumed(self, number: int) -> bool:
        """True if a run is going to be resumed at its saved position, False if it begins anew."""
        return bool(self.saved_run) and number == self.manager.number

    def begin_run(self, number: int, run: Run) -> None:
        """Begin a run, or resume it at the saved position. Raises UserError if the saved state does not fit it."""
        is_resumed = self.is_resumed(number)
        if is_resumed:
            try:
                run.state.load_state_dict(self.saved_run)
            except (AttributeError, LookupError, TypeError, ValueError, RuntimeError) as error:
                why = textwrap.shorten(str(error), 200)
                raise UserError(
                    f"--resume: the training state doesn't fit its network ({why}); {STATE_FORMAT.if_damaged}"
                ) from None
            if run.state.epoch > run.config.epochs:
                log.info("all epochs had ended")
            else:
                log.info("resuming at epoch %d of %d, step %d", run.state.epoch, run.config.epochs, run.state.step + 1)
        self.run, self.saved_run = run, None
        rows = run.state.rows if is_resumed else None
        self.manager.begin_run(number, run.model, run.train_loader, run.optimizer, rows)

    def end_epoch(self, val: Scores) -> bool:
        """Record an epoch that was trained and validated; True if its network is the one for model.pth."""
        is_best = self.run.state.end_epoch(val)
        self.manager.record_epoch(self.run.state.rows, len(self.run.train_loader.dataset), val)
        return is_best and self.best is None

    def end_run(self) -> None:
        """Record that the run under way has ended well."""
        if self.manager.is_best(self.manager.number):
            self.best = self.run.best_checkpoint()
        self.manager.end_run()

    def fail_run(self, number: int, reason: str, keep_state: bool) -> None:
        """Record that a run has failed. keep_state: whether --resume begins at its last saved position."""
        if not keep_state:
            self.run = self.saved_run = None
        self.manager.fail_run(number, reason)

    def calibrated_best(self, data: Data) -> Checkpoint:
        """The best network with its calibration, on the images that it was trained and validated on."""
        parts = data.split(TrainConfig(**self.best.config))
        return replace(self.best, calibration=calibrate(self.best, *parts), metrics=dict(self.best.metrics))

    def end_test(self, tested: Checkpoint) -> None:
        """Record the calibrated network of the best run, with its scores on the test set."""
        self.best, self.manager.is_tested = tested, True

    # --- saved and restored ---

    def to_bytes(self) -> bytearray:
        """The bytes of checkpoint.pth."""
        manager = self.manager
        content = {
            "options": manager.options,
            "params": manager.params,
            "requested": manager.requested,
            "resolved": manager.hyperparameters,
            "rows": {
                run: [[row[name] for name in COLUMNS] for row in rows] for run, rows in manager.rows_by_run.items()
            },
            "finished": manager.finished,
            "failures": manager.failures,
            "tested": manager.is_tested,
            "best": vars(self.best) if self.best else None,
            "inits": {arch: vars(init.without_tensors()) for arch, init in self.inits.items()},
            "number": manager.number,
            "run": self.run.state.state_dict() if self.run else self.saved_run,
            "fingerprint": self.fingerprint,
            "device": self.device,
            "longer": self.is_longer,
            "is_photos": self.is_photos,
            "versions": versions(),
        }
        return archive_bytes(content, STATE_FORMAT)

    def restore(self, saved: Mapping, is_longer: bool = False) -> None:
        """Take over what load_saved returned. is_longer: whether every run gets more epochs than it had.

        Raises UserError if the images, the device or a resolved value, such as a precision, differ from the saved ones.
        """
        manager = self.manager
        if saved["fingerprint"] != self.fingerprint:
            old, new = (f"{each[:12]}..." for each in (saved["fingerprint"], self.fingerprint))
            raise UserError(f"--resume: the images have changed (sha256 was {old}, is {new}); restore them, or {HINT}")
        under_way = saved["number"] if is_longer and saved["run"] else number_under_way(saved)
        if under_way and saved["device"] != self.device:
            raise UserError(f"--resume: --device was {saved['device']}, is {self.device}; {HINT}")
        for run in saved["rows"].keys() | ({under_way} - {0}):
            then, now = ({**each[run - 1], "epochs": 0} for each in (saved["resolved"], manager.hyperparameters))
            if changes := differences(then, now):
                raise UserError(f"--resume: run {run} was begun with other values: {'; '.join(changes)}; {HINT}")
        for run, rows in saved["rows"].items():
            manager.set_rows(run, [dict(zip(COLUMNS, row, strict=True)) for row in rows])
        manager.number, manager.failures, self.saved_run = saved["number"], saved["failures"], saved["run"]
        self.inits = {arch: Checkpoint(**init) for arch, init in saved["inits"].items()} | self.inits
        self.is_longer = is_longer or saved["longer"]
        if not is_longer:
            manager.finished, manager.is_tested = saved["finished"], saved["tested"]
            self.best = Checkpoint(**saved["best"]) if saved["best"] else None


def load_saved(command: Command) -> tuple[Command, dict | None]:
    """The command and, if it is to be resumed, the content of its checkpoint.pth; its saved options then hold.

    Raises UserError if that file can't be read or belongs to another command, or if a new command would replace a run
    or a grid that was interrupted.
    """
    path = command.state
    if not path.exists():
        if command.is_resume:
            log.warning("--resume: %s is missing, so training starts from the beginning", path)
        return _begun(command), None
    saved = load_archive(path, STATE_FORMAT)
    if command.is_resume:
        return resumed(command, saved), saved
    finished, count = len(saved["finished"]), len(saved["requested"])
    if not saved["tested"] and (saved["run"] or finished):
        what = f"grid, {finished} of {count} runs have finished" if count > 1 else "run"
        raise UserError(
            f"{path} belongs to an interrupted {what}: resume it with --resume, give a --model in another folder, or "
            "delete that file"
        )
    return _begun(command), None


def _begun(command: Command) -> Command:
    # A command that is not resumed. The embedded digits replace only a network for digits.
    dataset, network = checkpoint.describe(command.model)
    command = replace(command, replaced=network, may_fall_back=not command.dataset and dataset in ("", FALLBACK))
    is_user_data = command.dataset not in ("", *DATASETS)
    from_names = any(command.params.get("labels_from_names", ()))
    return command.with_recipe(is_user_data and shows_photos(command.dataset, from_names))


def build_progress(
    command: Command, data: Data, device: torch.device, saved: Mapping | None = None, board: Any = None
) -> Progress:
    """The progress of a command that begins, or of one that is resumed with what load_saved returned.

    Resolves and checks its configurations, and logs them. board: a tensorboard.TensorBoard, or None. Raises UserError
    if they don't suit the data, or the saved runs had others.
    """
    requested = command.configs(data.dataset)
    configs = broadcast(resolve(requested, data, device, keep_batch_size="batch_size" in command.params))
    check_fit(configs, data.info, command.run_info.get("init", ""))
    inits = from_rank_0(load_init, command.init, configs, data.info) if command.init else {}
    if not saved:
        for config in {config.arch: config for config in configs if config.arch in inits}.values():
            warn_of_init(command.init, inits[config.arch], config, data.info)
    folder = command.model.parent if is_main() else None
    values = [each.to_dict() for each in requested]
    manager = RunManager(command.params, folder, values, board, options=command.options)
    progress = Progress(manager, configs, data.fingerprint, device.type, inits)
    progress.is_photos = command.is_photos
    parts = data.parts if data.has_user_images else None
    hidden = set.intersection(*(set(config.without_effect(parts)) for config in configs))
    network = "" if "arch" in manager.varying else f", {configs[0].arch}"
    recipe = RECIPES[command.options["recipe"]].config(command.is_photos, dataset=data.dataset, arch=configs[0].arch)
    common = [(name, value) for name, value in manager.common().items() if name not in hidden | {"precision"}]
    changed = format_values({name: value for name, value in common if value != getattr(recipe, name)})
    values = textwrap.indent(textwrap.fill(changed, 76, break_on_hyphens=False), "    ")
    log.info("recipe %s%s%s", command.options["recipe"], network, changed and f", with\n{values}")
    log.info("all hyper-parameters: %s", command.tables[1])
    if idle := [option_name(name) for name in command.params if name in hidden and name in EPOCH_OPTIONS]:
        log.warning("%s: no effect, as no epoch is trained; give --epochs 1 or more", ", ".join(idle))
    if command.keep_every > (last := configs[0].epochs):
        log.warning("--keep-every %d keeps no network, as the last epoch is %d", command.keep_every, last)
    if command.replaced:
        what = f"{command.model} holds {command.replaced}"
        log.warning("%s; this command replaces it, its records and its report", what)
    if saved:
        progress.restore(saved, command.is_longer)
        if manager.finished:
            log.info("%d of %d runs had finished", len(manager.finished), manager.count)
        if not manager.unfinished():
            can_be_longer = manager.count == 1 and (configs[0].schedule == "constant" or not configs[0].epochs)
            log.info("all is trained already%s", "; more --epochs train longer" if can_be_longer else "")
    return progress
