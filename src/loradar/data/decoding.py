"""Stored pictures to pixels."""

import io
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor

from loradar.core.errors import BadDataError
from loradar.core.files import read_regular
from loradar.core.types import Images

_CHUNK = 256
_ORIENTATION = 0x0112
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_UNREADABLE = frozenset(("BUFR", "EPS", "GRIB", "HDF5", "MPEG", "WMF"))
"""Formats that Pillow recognises without decoding them itself; for EPS it would start another program."""


class Coded(Protocol):
    """Pictures as they are stored. `name` is what an error calls one, `length` its number of bytes."""

    def __len__(self) -> int: ...
    def read(self, index: int) -> bytes: ...
    def name(self, index: int) -> str: ...
    def length(self, index: int) -> int: ...


def decode(data: bytes, name: str, *, size: tuple[int, int] | None = None, scale: bool = True) -> Tensor:
    """Decode a picture to (3, height, width) uint8 RGB; grey, palette and alpha pictures are converted.

    A picture is turned as its EXIF orientation says. Of an animation or a multi-page file the first picture counts.
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
    with Image.open(io.BytesIO(data), formats=_formats()) as picture:
        rgb = _rgb(picture)
    if size is None or (rgb.height, rgb.width) == size:
        return _tensor(rgb)
    if not scale:
        expected = f"{size[0]}x{size[1]} like the first picture"
        raise BadDataError(
            f"is {rgb.height}x{rgb.width}; expected {expected} (--size N brings all of them to N x N; in Python "
            "size=(height, width))"
        )
    return _fit(rgb, size)


@cache
def _formats() -> tuple[str, ...]:
    Image.init()
    # the usual ones first: they are tried in this order, picture by picture
    names = dict.fromkeys(("JPEG", "PNG", "WEBP", "TIFF", "BMP", "GIF", *Image.ID))
    return tuple(name for name in names if name in Image.OPEN and name not in _UNREADABLE)


def can_open(path: Path) -> bool:
    """Whether the file's content is a picture, whatever its name is. Reads its beginning alone."""
    try:
        with Image.open(path, formats=_formats()):
            return True
    except Exception:  # what is no picture can raise almost anything
        return False


def picture_pixels(picture: Image.Image) -> Tensor:
    """Convert an open picture as `decode` does. Raises BadDataError where it has more than 8 bits a channel."""
    return _tensor(_rgb(picture))


def _rgb(picture: Image.Image) -> Image.Image:
    if picture.mode.startswith(("I", "F")):
        raise BadDataError(f"has mode {picture.mode}; expected 8 bits a channel (convert it to RGB or grey)")
    # first: a TIFF is turned by loading, and the EXIF block of a PNG may come after its pixels
    picture.load()
    turn = _TURNS.get(_orientation(picture))
    if turn is not None:
        picture = picture.transpose(turn)
    if picture.mode in ("P", "PA", "RGBa"):
        # a palette with transparency warns on its way to RGB unless it goes by RGBA; premultiplied pixels have no other way
        picture = picture.convert("RGBA")
    return picture if picture.mode == "RGB" else picture.convert("RGB")


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
            data = read_regular(path)
        except OSError as error:
            raise BadDataError(f"could not read {path}: {error.strerror}; expected an image") from error
        pixels.append(decode(data, str(path), size=size))
    return torch.stack(pixels).float() / 255


def _orientation(picture: Image.Image) -> Any:
    try:
        return picture.getexif().get(_ORIENTATION)
    except Exception:  # a damaged EXIF block can raise almost anything, and says nothing of the pixels
        return None


@contextmanager
def _threads() -> Iterator[ThreadPoolExecutor]:
    pool = ThreadPoolExecutor(max_workers=min(8, os.cpu_count() or 1))
    try:
        yield pool
    finally:
        # after one bad picture the rest need not be decoded
        pool.shutdown(cancel_futures=True)


def scaled(pixels: Tensor, size: tuple[int, int] | None) -> Tensor:
    """Bring images, (count, channels, height, width) uint8 or float32, to `size` as `decode` does."""
    if size is None or tuple(pixels.shape[2:]) == size:
        return pixels
    if pixels.shape[1] == 3 and pixels.dtype == torch.uint8:
        return torch.stack([_fit(Image.fromarray(p.permute(1, 2, 0).numpy()), size) for p in pixels])
    planes = pixels.flatten(0, 1).contiguous().numpy()
    fitted = torch.stack([torch.from_numpy(np.array(_fitted(Image.fromarray(plane), size))) for plane in planes])
    # rounding may carry a float past the brightest pixel
    brightest = 255 if pixels.dtype == torch.uint8 else 1
    return fitted.view(*pixels.shape[:2], *size).clamp_(0, brightest)


def _fit(rgb: Image.Image, size: tuple[int, int]) -> Tensor:
    return _tensor(_fitted(rgb, size))


def _fitted(picture: Image.Image, size: tuple[int, int]) -> Image.Image:
    return ImageOps.fit(picture, (size[1], size[0]), method=Image.Resampling.BILINEAR)


def _tensor(rgb: Image.Image) -> Tensor:
    return torch.from_numpy(np.array(rgb)).permute(2, 0, 1)
