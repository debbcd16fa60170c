"""Where randomness starts, and where it stands: Python's, NumPy's and torch's default generators."""

import random
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


def seed_everything(seed: int) -> None:
    """Seed Python's, NumPy's and torch's default generators, the last on every device."""
    import numpy as np
    import torch

    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)


def diverge(rank: int) -> None:
    """Let torch's default generators of process `rank`, unless that is 0, go on elsewhere: dropout draws from them."""
    import torch

    if rank:
        torch.manual_seed(int(torch.randint(2**62, ())) + rank)


def random_state(device: "torch.device") -> dict:
    """Where the generators that seed_everything seeds stand, as plain types and tensors; torch's on this device."""
    import numpy as np
    import torch

    version, numbers, gauss = random.getstate()
    of_numpy = np.random.get_state(legacy=False)
    of_numpy["state"]["key"] = of_numpy["state"]["key"].tolist()
    state = {"python": [version, list(numbers), gauss], "numpy": of_numpy, "torch": torch.get_rng_state()}
    if device.type != "cpu":
        state["device"] = torch.get_device_module(device).get_rng_state()
    return state


def set_random_state(state: dict, device: "torch.device") -> None:
    """Put them back to where random_state found them."""
    import numpy as np
    import torch

    version, numbers, gauss = state["python"]
    random.setstate((version, tuple(numbers), gauss))
    np.random.set_state(state["numpy"])
    torch.set_rng_state(state["torch"])
    if device.type != "cpu":
        torch.get_device_module(device).set_rng_state(state["device"])
