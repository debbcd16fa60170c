"""What epochs and runs are judged by: config.CHOICES["monitor"] names the measures."""

from collections.abc import Mapping


def judged_by(measures: Mapping[str, float | None], monitor: str = "accuracy") -> float:
    """What an epoch is judged by, the higher the better: validation's accuracy, macro F1 or loss, this one negative.

    Training's accuracy or loss where nothing was validated.
    """
    if monitor == "loss":
        return -measures["train_loss" if measures["val_loss"] is None else "val_loss"]
    return accuracy_of(measures) if measures["val_accuracy"] is None else measures[f"val_{monitor}"]


def accuracy_of(measures: Mapping[str, float | None]) -> float:
    """Validation's accuracy, or training's where nothing was validated."""
    return measures["train_accuracy" if measures["val_accuracy"] is None else "val_accuracy"]
