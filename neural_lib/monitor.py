"""What epochs and runs are judged by: TrainConfig.monitor names the measures."""

import math
from collections.abc import Mapping


def judged_by(measures: Mapping[str, float | None], monitor: str = "accuracy") -> float:
    """What an epoch is judged by, the higher the better: validation's accuracy, macro F1 or loss, this one negative.

    Training's accuracy or loss where nothing was validated; the loss where no accuracy is known; -inf where nothing is.
    """
    score = accuracy_of(measures) if measures["val_accuracy"] is None else measures[f"val_{monitor}"]
    if monitor != "loss" and score is not None:
        return score
    loss = measures["train_loss" if measures["val_loss"] is None else "val_loss"]
    return -math.inf if loss is None else -loss


def accuracy_of(measures: Mapping[str, float | None]) -> float | None:
    """Validation's accuracy, or training's where nothing was validated; None where that is not known either."""
    return measures["train_accuracy" if measures["val_accuracy"] is None else "val_accuracy"]
