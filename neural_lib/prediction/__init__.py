"""Reading pictures with a trained network: `from neural_lib.prediction import Recogniser, PictureError`."""

INVERT = ("auto", "yes", "no")  # yes: dark on light
ORDERS = ("rows", "columns")  # in which a page's characters are read
MIN_PROBABILITY = 0.5  # of an answer that is sure


def __getattr__(name: str) -> object:
    # so that looking for pictures or a display doesn't load torch
    if name in ("Recogniser", "PictureError"):
        from neural_lib.prediction import recogniser

        return getattr(recogniser, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
