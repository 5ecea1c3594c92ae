"""Pictures of strangers to tensors: looked at before they are decoded, and in formats of which that says enough. And back."""

import base64
import io

from PIL import Image
from torch import Tensor

from loradar.core.errors import BadDataError
from loradar.data.decoding import decode
from loradar.serve.errors import Refused

FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF")
"""What Pillow opens here: formats that say their size first and hold no other file within."""


def read_picture(data: bytes, name: str, *, size: tuple[int, int], max_pixels: int) -> Tensor:
    """Decodes a picture as `loradar.data` does, (3, *size) float32 in [0, 1]; the same bits.

    Raises Refused: 413 for more than `max_pixels`, 415 for another format, 422 for a picture that is broken.
    """
    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as picture:
            width, height = picture.size
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise Refused(413, f"{name} has more than {max_pixels} pixels; send a smaller one") from error
    except Exception as error:  # what is no picture can raise almost anything
        raise Refused(415, f"{name} is no picture; expected one of {', '.join(FORMATS)}") from error
    if width * height > max_pixels:
        raise Refused(413, f"{name} has {width}x{height} pixels, more than {max_pixels}; send a smaller one")
    try:
        pixels = decode(data, name, size=size)
    except BadDataError as error:
        raise Refused(422, str(error)) from error
    return pixels.float() / 255


def write_picture(image: Tensor) -> str:
    """Writes (3, height, width) in [0, 1] as PNG in base64; of 8-bit values it keeps every bit.

    >>> import torch
    >>> write_picture(torch.zeros(3, 2, 2))[:8]
    'iVBORw0K'
    """
    file = io.BytesIO()
    Image.fromarray((image * 255).round().byte().permute(1, 2, 0).cpu().numpy()).save(file, "PNG")
    return base64.b64encode(file.getvalue()).decode()
