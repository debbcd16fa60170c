"""How the images of a data set are read: idx files, CIFAR's pickled batches, scikit-learn's digits.

Each reader takes the folder of the files, their official sha256 by name and which part is wanted, and returns images
(N, C, H, W), uint8, and labels (N,), as NumPy arrays. downloads.ensure_files has found them to be the official ones.
"""

import hashlib
import io
import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from neural_lib.errors import UserError

if TYPE_CHECKING:
    import numpy as np

    Arrays = tuple[np.ndarray, np.ndarray]

DIGITS_TRAIN_SIZE, DIGITS_SIZE = 1_500, 28  # images, pixels


def read_idx(folder: Path, sha256: Mapping[str, str], train: bool) -> "Arrays":
    """MNIST's format, which KMNIST and Fashion-MNIST have as well (http://yann.lecun.com/exdb/mnist/)."""
    part = "train" if train else "t10k"
    images, labels = (_idx_array(folder / f"{part}-{kind}-ubyte") for kind in ("images-idx3", "labels-idx1"))
    return images[:, None], labels  # (N, H, W) -> (N, 1, H, W)


def _idx_array(path: Path) -> "np.ndarray":
    # The inverse of downloads.idx_bytes, for files whose checksums are right. torchvision can read them, but its import
    # takes another 0.4 s after torch's (warm; 2 cores), and its KMNIST class would prefer an unverified
    # processed/training.pt, which old versions of torchvision left behind.
    import numpy as np

    values = np.fromfile(path, dtype=np.uint8)
    lengths = values[4 : 4 + 4 * values[3]].view(">i4")  # values[3]: the number of axes
    return values[4 + 4 * values[3] :].reshape(lengths)


def read_cifar(folder: Path, sha256: Mapping[str, str], train: bool) -> "Arrays":
    """CIFAR-10's "python version" (https://www.cs.toronto.edu/~kriz/cifar.html): pickles, which can hold any code.

    So the very bytes that are unpickled are checked first, whatever is remembered of the file, and of what a pickle
    can import only the three names that an array is made of are allowed. Raises UserError for any other content.
    """
    import numpy as np

    names = [name for name in sha256 if name.startswith("data_batch_" if train else "test_batch")]
    batches = [_verified_batch(folder / name, sha256[name]) for name in names]
    pixels = np.concatenate([batch["data"] for batch in batches])  # (N, 3072): all red, then green, then blue
    labels = np.concatenate([batch["labels"] for batch in batches])
    return pixels.reshape(-1, 3, 32, 32), labels


def _verified_batch(path: Path, sha256: str) -> dict:
    content = path.read_bytes()
    if hashlib.sha256(content).hexdigest() != sha256:
        raise UserError(f"{path}: damaged, or not the official file (another sha256); delete it")
    return _ArrayUnpickler(io.BytesIO(content), encoding="latin1").load()  # written by Python 2


class _ArrayUnpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> object:
        import numpy as np

        reconstruct, *_ = np.empty(0).__reduce__()  # wherever this version of NumPy has it
        allowed = {
            ("numpy.core.multiarray", "_reconstruct"): reconstruct,
            ("numpy", "ndarray"): np.ndarray,
            ("numpy", "dtype"): lambda code, *_: np.dtype(code),  # its old flags as numbers are deprecated in NumPy 2.4
        }
        return allowed[module, name]


def read_digits(folder: Path, sha256: Mapping[str, str], train: bool) -> "Arrays":
    """scikit-learn's digits, 8x8 pixels of 0..16, enlarged; the last 297 are the test part, always the same ones."""
    import torch
    from sklearn.datasets import load_digits

    pixels, labels = load_digits(return_X_y=True)
    images = torch.from_numpy(pixels).float().view(-1, 1, 8, 8) * (255 / 16)  # (N, 64) -> (N, 1, 8, 8)
    images = torch.nn.functional.interpolate(images, size=DIGITS_SIZE, mode="bicubic")  # -> (N, 1, 28, 28)
    part = slice(None, DIGITS_TRAIN_SIZE) if train else slice(DIGITS_TRAIN_SIZE, None)
    return images.round().clamp(0, 255).to(torch.uint8).numpy()[part], labels[part]
