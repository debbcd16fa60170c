"""Reading pictures with a trained network: `from neural_lib.prediction import Recogniser, PictureError`."""

INVERT = ("auto", "yes", "no")  # yes: dark on light


def __getattr__(name: str) -> object:
    # so that looking for pictures or a display doesn't load torch
    if name in ("Recogniser", "PictureError"):
        from neural_lib.prediction import recogniser

        return getattr(recogniser, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
