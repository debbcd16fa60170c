"""Reading pictures with a trained network: `from neural_lib.prediction import Recogniser, PictureError`."""

INVERT = ("auto", "yes", "no")  # yes: dark on light
ORDERS = ("rows", "columns")  # reading orders of a page


def default_min_probability(classes: int) -> float:
    """The probability below which an answer is not sure: of two classes the top one has a half at least."""
    return 0.5 + 0.2 / classes


def __getattr__(name: str) -> object:
    # importing them here would load torch, which the checks of the arguments don't need
    if name in ("Recogniser", "PictureError"):
        from neural_lib.prediction import recogniser

        return getattr(recogniser, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
