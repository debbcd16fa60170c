"""History and results as matplotlib figures. matplotlib is imported where a figure is drawn."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from neural_lib.training import History

# of what matplotlib writes (FigureCanvasBase.filetypes), all that knows transparency; named here so that no run waits
# for its import
SUFFIXES = (".png", ".pdf", ".svg", ".jpg", ".jpeg", ".webp", ".tif", ".tiff")


def plot_history(history: "History", best_epoch: int, title: str) -> "Figure":
    """The tutorial's four curves, loss and accuracy each on its own axes; a line marks `best_epoch`, counted from 1."""
    from matplotlib.figure import Figure  # without pyplot: no window system, no global state
    from matplotlib.ticker import MaxNLocator, PercentFormatter

    figure = Figure(figsize=(10, 4.5), dpi=120, layout="constrained")
    figure.suptitle(title)
    loss_axes, accuracy_axes = figure.subplots(1, 2)
    epochs = range(1, len(history.train_loss) + 1)
    marker = "o" if len(epochs) <= 30 else None  # one epoch alone is a point, and a line through it is nothing

    for axes, kind in ((loss_axes, "loss"), (accuracy_axes, "acc")):
        for part, colour in (("train", "tab:blue"), ("val", "tab:orange")):
            name = f"{part}_{kind}"
            axes.plot(epochs, getattr(history, name), label=name, color=colour, marker=marker, markersize=4)
        axes.axvline(best_epoch, color="grey", linestyle="--", linewidth=1, label=f"saved: epoch {best_epoch}")
        axes.set_xlabel("epoch")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
        axes.grid(alpha=0.3)
        axes.legend()
    loss_axes.set_ylabel("loss (mean per image, nats)")
    loss_axes.set_ylim(bottom=0)
    accuracy_axes.set_ylabel("accuracy")
    accuracy_axes.yaxis.set_major_formatter(PercentFormatter(xmax=1, decimals=None))
    return figure
