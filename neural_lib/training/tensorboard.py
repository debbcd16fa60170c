"""TensorBoard's files of a grid of runs: curves, images, graph, weights, confusion matrix, hyper-parameters."""

import itertools
import logging
import textwrap
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path

from torch import Tensor, nn, optim
from torch.utils.data import DataLoader
from torch.utils.tensorboard import SummaryWriter
from torchvision.utils import make_grid

from neural_lib.config import format_value, format_values
from neural_lib.evaluation.plots import plot_confusion
from neural_lib.evaluation.scores import Scores, confusion_matrix
from neural_lib.records import TITLES

log = logging.getLogger(__name__)
SAMPLES = 32  # training images shown for each run
MAX_NAME = 200  # characters of a folder's name; most file systems take 255 bytes


class TensorBoard:
    """A folder for each run under `logdir`, named after its hyper-parameters; a number follows if that name is taken.

    Figures of training and of validation are in subfolders with the same names, `loss` and `accuracy`, so that
    TensorBoard draws them into one chart. classes: their names. prefix: of the folders' names. glyphs: the written
    character of each class; empty: none.
    """

    def __init__(
        self, logdir: str | Path, classes: Sequence[str], prefix: str = "", glyphs: Sequence[str] = ()
    ) -> None:
        self.logdir, self.classes, self.prefix, self.glyphs = Path(logdir), classes, prefix, glyphs
        self.writers: dict[str, SummaryWriter] = {}

    def begin_run(
        self,
        label: Mapping[str, object],
        network: nn.Module | None = None,
        loader: DataLoader | None = None,
        optimizer: optim.Optimizer | None = None,
        done: int | None = None,
    ) -> None:
        """Begin a new run, or resume one whose last complete epoch is `done`; None for a new run.

        label: the values of the hyper-parameters that vary in the grid; they name the run's folder.
        """
        self.label, self.network, self.optimizer = dict(label), network, optimizer
        folder = self._make_folder(folder_name(label, self.prefix), is_resumed=done is not None)
        purge = {} if done is None else {"purge_step": done + 1}  # drops events of epochs that are trained once more
        self.writers = {part: SummaryWriter(str(folder / part), **purge) for part in ("", "train", "val")}
        self.best_val = None
        # read from the data set, because iterating over the loader would draw from its generator
        images = getattr(getattr(loader, "dataset", None), "images", None)
        if images is not None:
            self._add_images(images[:SAMPLES])
            if network is not None:
                self._add_graph(images[:1].float())

    def _make_folder(self, name: str, is_resumed: bool) -> Path:
        # the first free one of name, name,2, name,3 ...; for a resumed run the last that is taken
        folders = (self.logdir / (f"{name},{number}" if number > 1 else name) for number in itertools.count(1))
        taken = list(itertools.takewhile(Path.exists, folders))
        if is_resumed and taken:
            return taken[-1]
        folder = self.logdir / (f"{name},{len(taken) + 1}" if taken else name)
        folder.mkdir(parents=True)
        return folder

    def _add_images(self, images: Tensor) -> None:
        self.writers[""].add_image("images", make_grid(images.float() / 255, nrow=8, pad_value=0.5))

    def _add_graph(self, image: Tensor) -> None:
        training = self.network.training
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch.jit warns that it is deprecated
            try:
                self.writers[""].add_graph(self.network.eval(), image)  # eval: dropout would draw from its generator
            except RuntimeError as error:  # torch.jit can't trace every network
                log.warning("TensorBoard will not show the network's graph: %s", textwrap.shorten(str(error), 200))
        self.network.train(training)

    def end_epoch(
        self,
        epoch: int,
        count: int,
        measures: Mapping[str, float | None],
        val: Scores | None = None,
        is_best: bool = True,
    ) -> None:
        """Add an epoch's figures, by records.MEASURES, its weights and gradients.

        count: images trained on. val: the validation's scores. is_best: whether it is the run's best epoch so far.
        """
        for measure in TITLES:
            part, name = measure.split("_", 1)
            if measures[measure] is not None:
                self.writers[part].add_scalar(name, measures[measure], epoch)
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

    def end_run(self, best: Mapping[str, object]) -> None:
        """Add the confusion matrix and the hyper-parameters of a run that ended well. best: its best epoch's row."""
        if self.best_val:
            matrix = confusion_matrix(self.best_val.labels, self.best_val.predictions, len(self.classes))
            figure = plot_confusion(matrix, self.classes, f"validation, epoch {best['epoch']}", self.glyphs)
            self.writers[""].add_figure("confusion_matrix", figure, best["epoch"])
        figures = {f"best/{name}": best[name] for name in (*TITLES, "epoch") if best.get(name) is not None}
        values = {name: format_value(value) if isinstance(value, bool) else value for name, value in self.label.items()}
        own_folder = "."
        self.writers[""].add_hparams(values, figures, run_name=own_folder, global_step=best["epoch"])
        self.close()

    def close(self) -> None:
        """Close the files of the run."""
        for writer in self.writers.values():
            writer.close()
        self.writers = {}


def folder_name(label: Mapping[str, object], prefix: str) -> str:
    """A run's folder: "lr=0.01,batch_size=100"."""
    name = ",".join(part for part in (prefix, format_values(label).replace(", ", ",")) if part) or "run"
    return name[:MAX_NAME]
