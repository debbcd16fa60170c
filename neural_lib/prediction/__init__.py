"""Reading pictures with a trained network: `from neural_lib.prediction import Recogniser, PictureError`."""

INVERT = ("auto", "yes", "no")  # yes: dark on light
ORDERS = ("rows", "columns")  # reading orders of a page
MIN_PROBABILITY = 0.5  # a less probable answer is not sure


def __getattr__(name: str) -> object:
    # importing them here would load torch, which the checks of the arguments don't need
    if name in ("Recogniser", "PictureError"):
        from neural_lib.prediction import recogniser

        return getattr(recogniser, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
