"""Stored pictures to pixels."""

import io
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor

from loradar.core.errors import BadDataError
from loradar.core.types import Images

_CHUNK = 256


class Coded(Protocol):
    """Pictures as they are stored. `name` is what an error calls one, `length` its number of bytes."""

    def __len__(self) -> int: ...
    def read(self, index: int) -> bytes: ...
    def name(self, index: int) -> str: ...
    def length(self, index: int) -> int: ...


def decode(data: bytes, name: str, *, size: tuple[int, int] | None = None, scale: bool = True) -> Tensor:
    """(3, height, width) uint8 RGB; grey, palette and alpha pictures are converted.

    A picture of another `size` (height, width) is scaled, bilinear, until it covers that, and cropped about its centre;
    with `scale=False` it is an error. Raises BadDataError with `name` for that, where the picture is broken, or where
    it has more than 8 bits a channel.
    """
    try:
        return _decode(data, size, scale)
    except BadDataError as error:
        raise BadDataError(f"{name} {error}") from error
    except UnidentifiedImageError as error:  # which would say an address in memory
        raise BadDataError(f"{name} cannot be read as an image (its format is unknown); mend or remove it") from error
    except Exception as error:  # a broken picture can raise almost anything
        reason = " ".join(str(error).split()) or type(error).__name__
        raise BadDataError(f"{name} cannot be read as an image ({reason}); mend or remove it") from error


def _decode(data: bytes, size: tuple[int, int] | None, scale: bool) -> Tensor:
    with Image.open(io.BytesIO(data)) as picture:
        if picture.mode.startswith(("I", "F")):
            raise BadDataError(f"has mode {picture.mode}; expected 8 bits a channel (convert it to RGB or grey)")
        # a palette with transparency warns on its way to RGB unless it goes by RGBA
        rgb = (picture.convert("RGBA") if picture.mode == "P" else picture).convert("RGB")
    if size is None or (rgb.height, rgb.width) == size:
        return _tensor(rgb)
    if not scale:
        expected = f"{size[0]}x{size[1]} like the first picture"
        raise BadDataError(f"is {rgb.height}x{rgb.width}; expected {expected}, or a size to bring all of them to")
    return _fit(rgb, size)


def decode_all(coded: Coded, indices: list[int], *, size: tuple[int, int], scale: bool) -> Tensor:
    """(len(indices), 3, *size) uint8. Raises BadDataError that names the picture which cannot be read."""
    pixels = torch.empty(len(indices), 3, *size, dtype=torch.uint8)

    def chunk(start: int) -> None:
        for slot in range(start, min(start + _CHUNK, len(indices))):
            index = indices[slot]
            pixels[slot] = decode(coded.read(index), coded.name(index), size=size, scale=scale)

    with _threads() as pool:
        for _ in pool.map(chunk, range(0, len(indices), _CHUNK)):
            pass
    return pixels


def read_images(paths: Sequence[Path], *, size: tuple[int, int]) -> Images:
    """(len(paths), 3, *size) float32 in [0, 1]. Raises BadDataError that names the file which cannot be read."""
    pixels = []
    for path in paths:
        try:
            data = path.read_bytes()
        except OSError as error:
            raise BadDataError(f"could not read {path}: {error.strerror}; expected an image") from error
        pixels.append(decode(data, str(path), size=size))
    return torch.stack(pixels).float() / 255


@contextmanager
def _threads() -> Iterator[ThreadPoolExecutor]:
    pool = ThreadPoolExecutor(max_workers=min(8, os.cpu_count() or 1))
    try:
        yield pool
    finally:
        # after one bad picture the rest need not be decoded
        pool.shutdown(cancel_futures=True)


def scaled(pixels: Tensor, size: tuple[int, int] | None) -> Tensor:
    """uint8 (count, 3, height, width), each brought to `size` as `decode` does."""
    if size is None or tuple(pixels.shape[2:]) == size:
        return pixels
    return torch.stack([_fit(Image.fromarray(p.permute(1, 2, 0).numpy()), size) for p in pixels])


def _fit(rgb: Image.Image, size: tuple[int, int]) -> Tensor:
    return _tensor(ImageOps.fit(rgb, (size[1], size[0]), method=Image.Resampling.BILINEAR))


def _tensor(rgb: Image.Image) -> Tensor:
    return torch.from_numpy(np.array(rgb)).permute(2, 0, 1)
