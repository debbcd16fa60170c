"""Reading pictures with a trained network: `from neural_lib.prediction import Recogniser`."""


def __getattr__(name: str) -> object:
    # so that looking for pictures or a display doesn't load torch
    if name == "Recogniser":
        from neural_lib.prediction.recogniser import Recogniser

        return Recogniser
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
