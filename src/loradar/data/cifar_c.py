"""CIFAR-10-C and CIFAR-100-C: an array of images for each corruption, its five severities one after another."""

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from loradar.core.errors import BadDataError, did_you_mean
from loradar.data.checking import checked_labels, numbered_classes
from loradar.data.corruptions import SEVERITIES
from loradar.data.decoding import scaled
from loradar.data.gathering import decoded
from loradar.data.images import ImageSet
from loradar.data.source import Source

_LABELS = "labels"


def cifar_c_source(
    folder: Path, *, corruption: str = "", severity: str = "", size: tuple[int, int] | None = None
) -> Source:
    """Open the images of one corruption at one severity, in the order of CIFAR's test images.

    Args:
        folder: It holds `gaussian_noise.npy` (50000, 32, 32, 3) and so on, uint8, and `labels.npy`.
        corruption: The name of one of its files.
        severity: `1` to `5`.
        size: As in `load_source`.

    Returns:
        A source of one set of images. Classes are numbers, as in the file; a fifth of its file is read.

    Raises:
        BadDataError: For options that are missing or not there, and for files of another kind or shape.
    """
    names = sorted(file.stem for file in folder.glob("*.npy") if file.stem != _LABELS and not file.name.startswith("."))
    if not names:
        raise BadDataError(f"{folder} holds no corruption such as fog.npy; expected CIFAR-10-C or CIFAR-100-C")
    if corruption not in names:
        raise BadDataError(
            f"cifar-c: corruption={corruption!r:.80} is not in {folder}; {did_you_mean(corruption, names)}"
        )
    if severity not in map(str, range(1, SEVERITIES + 1)):
        raise BadDataError(f"cifar-c: severity={severity:.20}; expected severity=1 to severity={SEVERITIES}")
    title = folder.name or folder.resolve().name
    name = f"{title}/{corruption}-{severity}"
    labels = _array(folder / f"{_LABELS}.npy")
    if labels.size == 0:
        raise BadDataError(f"{folder / _LABELS}.npy holds no labels; fetch it again")
    numbers = checked_labels(labels, count=len(np.atleast_1d(labels)), name=f"{title}/{_LABELS}.npy")
    classes = numbered_classes(numbers, f"{title}/{_LABELS}.npy")

    def read() -> ImageSet:
        path = folder / f"{corruption}.npy"
        pixels = _array(path)
        each, rest = divmod(len(pixels) if pixels.ndim else 0, SEVERITIES)
        if pixels.dtype != np.uint8 or pixels.shape[1:] != (32, 32, 3) or not each or rest:
            raise BadDataError(
                f"{path} is {pixels.dtype} of shape {pixels.shape}; expected uint8 (5 times the images, 32, 32, 3)"
            )
        if len(numbers) not in (each, each * SEVERITIES):
            raise BadDataError(f"{path} has {len(pixels)} images and labels.npy {len(numbers)}; expected as many")
        start = (int(severity) - 1) * each
        chosen = torch.from_numpy(np.array(pixels[start : start + each])).permute(0, 3, 1, 2).contiguous()
        own = numbers if len(numbers) == each else numbers[start : start + each]
        return decoded(scaled(chosen, size), own, classes=classes, name=name)

    return Source(name=title, classes=classes, splits={corruption: read})


def _array(path: Path) -> npt.NDArray[Any]:
    """An array on the disk, of which only what is used is read."""
    if not path.is_file():
        raise BadDataError(f"there is no file {path}; expected CIFAR-10-C or CIFAR-100-C")
    try:
        found = np.load(path, mmap_mode="r", allow_pickle=False)
    except Exception as error:  # a broken file can raise almost anything
        reason = " ".join(str(error).split()) or type(error).__name__
        raise BadDataError(f"{path} is no whole array of numbers ({reason:.80}); fetch it again") from error
    if not isinstance(found, np.ndarray):
        raise BadDataError(f"{path} is an archive; expected one array")
    return found
