"""TensorBoard's records of a grid of runs. tensorboard is imported where a board is made, and never without one."""

import contextlib
import hashlib
import itertools
import json
import logging
import textwrap
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from neural_lib.config import in_words, shown
from neural_lib.errors import UserError
from neural_lib.files import atomic_write, locked

if TYPE_CHECKING:
    from torch import Tensor, nn, optim
    from torch.utils.data import DataLoader

    from neural_lib.evaluation import Evaluation

log = logging.getLogger(__name__)

SAMPLES = 32  # images shown of each run
EVENT_FILES = "events.out.tfevents.*"  # TensorBoard's own name for them
LONGEST_NAME = 200  # characters of a folder's name; most file systems take 255 bytes


class Board:
    """What is told of each run and epoch; this one keeps nothing of it."""

    def begin_run(
        self,
        label: Mapping[str, object],
        hyperparameters: Mapping[str, object],
        network: "nn.Module | None" = None,
        loader: "DataLoader | None" = None,
        optimizer: "optim.Optimizer | None" = None,
        done: int = 0,
    ) -> None:
        """A run begins, or goes on after `done` epochs. label: those hyper-parameters that tell it from others."""

    def end_epoch(
        self,
        epoch: int,
        count: int,
        measures: Mapping[str, float | None],
        val: "Evaluation | None" = None,
        is_best: bool = True,
    ) -> None:
        """An epoch has ended. count: images trained on. measures: those of records.MEASURES. val: validation's.

        is_best: whether it is better than all before in this run.
        """

    def end_run(self, best: Mapping[str, object]) -> None:
        """The run has ended well. best: the row of its best epoch."""

    def close(self) -> None:
        """No more of this run, however it ended."""


class TensorBoard(Board):
    """A folder for each run, named after its hyper-parameters, under `logdir`.

    What an earlier run with the very same ones left there is replaced. Where another run has a folder of that name,
    this one's is numbered; hyperparameters.json in the folder tells.

    Training's and validation's figures are in folders of their own with the same names, `loss` and `accuracy`, so that
    TensorBoard draws them into one chart. classes: their names. prefix: of the folders' names.
    """

    def __init__(self, logdir: str | Path, classes: Sequence[str], prefix: str = "") -> None:
        from torch.utils.tensorboard import SummaryWriter

        self.logdir, self.classes, self.prefix = Path(logdir), classes, prefix
        self.new_writer = SummaryWriter
        self.writers: dict[str, SummaryWriter] = {}
        self.lock = contextlib.ExitStack()

    def begin_run(self, label, hyperparameters, network=None, loader=None, optimizer=None, done=0) -> None:
        self.label, self.network, self.optimizer = dict(label), network, optimizer
        folder = self._own_folder(folder_name(label, self.prefix), hyperparameters, keep=done > 0)
        purge = {"purge_step": done + 1} if done else {}  # what is there of later epochs, which come once more
        self.writers = {part: self.new_writer(str(folder / part), **purge) for part in ("", "train", "val")}
        self.best_val = None
        # from the data set: going through the loader would draw from its generator
        images = getattr(getattr(loader, "dataset", None), "images", None)
        if images is not None:
            self._add_images(images[:SAMPLES])
            if network is not None:
                self._add_graph(images[:1].float())

    def _own_folder(self, name: str, hyperparameters: Mapping[str, object], keep: bool) -> Path:
        own = json.dumps(dict(hyperparameters), indent=1, default=str) + "\n"
        for number in itertools.count(1):
            folder = self.logdir / (name if number == 1 else f"{name},{number}")
            described = folder / "hyperparameters.json"
            if folder.exists() and not (described.exists() and described.read_text(encoding="utf-8") == own):
                continue
            folder.mkdir(parents=True, exist_ok=True)
            try:
                self.lock.enter_context(locked(described, "--logdir"))
            except UserError:  # the very same run is being trained by another command
                continue
            break
        for part in () if keep else ("", "train", "val"):
            for stale in (folder / part).glob(EVENT_FILES):
                stale.unlink()
        with atomic_write(described) as handle:
            handle.write(own.encode())
        return folder

    def _add_images(self, images: "Tensor") -> None:
        from torchvision.utils import make_grid  # half a second to import

        self.writers[""].add_image("images", make_grid(images.float() / 255, nrow=8, pad_value=0.5))

    def _add_graph(self, image: "Tensor") -> None:
        training = self.network.training
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch.jit's remarks on its age
            try:
                self.writers[""].add_graph(self.network.eval(), image)  # eval: dropout would draw from its generator
            except RuntimeError as error:  # of a network that torch.jit can't trace
                log.warning("TensorBoard will not show the network's graph: %s", textwrap.shorten(str(error), 200))
        self.network.train(training)

    def end_epoch(self, epoch, count, measures, val=None, is_best=True) -> None:
        for part in ("train", "val"):
            for name in ("loss", "accuracy"):
                if (value := measures[f"{part}_{name}"]) is not None:
                    self.writers[part].add_scalar(name, value, epoch)
        if measures["val_f1"] is not None:
            self.writers["val"].add_scalar("f1", measures["val_f1"], epoch)
        seen = count + (len(val.labels) if val else 0)
        self.writers[""].add_scalar("images_per_second", seen / max(measures["epoch_duration"], 1e-3), epoch)
        if self.optimizer is not None:
            self.writers[""].add_scalar("learning_rate", self.optimizer.param_groups[0]["lr"], epoch)
        if self.network is not None:
            for name, parameter in self.network.named_parameters():
                self.writers[""].add_histogram(name, parameter, epoch)
                if parameter.grad is not None:
                    self.writers[""].add_histogram(f"{name}.grad", parameter.grad, epoch)
        for writer in self.writers.values():
            writer.flush()  # so that it is seen while the next epoch runs
        if is_best:
            self.best_val = val

    def end_run(self, best) -> None:
        if self.best_val:
            from neural_lib.metrics import confusion_matrix
            from neural_lib.plots import plot_confusion

            matrix = confusion_matrix(self.best_val.labels, self.best_val.predictions, len(self.classes))
            figure = plot_confusion(matrix, self.classes, f"validation, epoch {best['epoch']}")
            self.writers[""].add_figure("confusion_matrix", figure, best["epoch"])
        told = ("val_accuracy", "val_loss", "val_f1", "train_accuracy", "epoch")
        measures = {f"best/{name}": best.get(name) for name in told}
        known = {name: value for name, value in measures.items() if value is not None}
        values = {name: shown(value) if isinstance(value, bool) else value for name, value in self.label.items()}
        own_folder = "."
        self.writers[""].add_hparams(values, known, run_name=own_folder, global_step=best["epoch"])
        self.close()

    def close(self) -> None:
        for writer in self.writers.values():
            writer.close()
        self.writers = {}
        self.lock.close()


def folder_name(label: Mapping[str, object], prefix: str) -> str:
    """A run's folder: "lr=0.01,batch_size=100"."""
    name = ",".join(part for part in (prefix, in_words(label).replace(", ", ",")) if part) or "run"
    if len(name) <= LONGEST_NAME:
        return name
    return f"{name[:LONGEST_NAME]},{hashlib.sha256(name.encode()).hexdigest()[:8]}"


def open_board(logdir: str | Path | None, classes: Sequence[str], prefix: str = "") -> Board:
    """A TensorBoard under `logdir`, or a Board that keeps nothing where that is None."""
    return Board() if logdir is None else TensorBoard(logdir, classes, prefix)
