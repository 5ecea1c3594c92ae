import base64
import io

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from loradar.core.errors import BadImagesError
from loradar.evaluation import Picture


def picture(x: Tensor, x_adv: Tensor) -> Picture:
    return Picture.of(x, x_adv, model="m", attack="a", threat="transfer", label="cat", before="cat", after="dog")


def pixels(png: str) -> Tensor:
    with Image.open(io.BytesIO(base64.b64decode(png))) as image:
        return torch.from_numpy(np.array(image)).permute(2, 0, 1)


def test_images_are_kept_to_the_bit() -> None:
    x = torch.randint(0, 256, (3, 6, 5)).float() / 255
    shown = picture(x, x.flip(1))
    assert torch.equal(pixels(shown.clean).float() / 255, x)
    assert torch.equal(pixels(shown.attacked).float() / 255, x.flip(1))


def test_the_difference_is_amplified_until_it_fills_the_range() -> None:
    x = torch.full((3, 4, 4), 0.5)
    x_adv = x.clone()
    x_adv[:, 0, 0], x_adv[:, 1, 1] = 0.6, 0.45
    shown = picture(x, x_adv)
    assert shown.gain == pytest.approx(5.0, rel=1e-5)
    change = pixels(shown.difference)[0]
    assert (int(change[0, 0]), int(change[1, 1]), int(change[2, 2])) == (255, 64, 128)


def test_no_difference_is_grey() -> None:
    x = torch.rand(3, 4, 4)
    assert torch.equal(pixels(picture(x, x).difference), torch.full((3, 4, 4), 128, dtype=torch.uint8))


def test_one_channel_is_shown_as_grey_and_a_large_image_is_shrunk() -> None:
    shown = pixels(picture(torch.rand(1, 448, 300), torch.rand(1, 448, 300)).clean)
    assert shown.shape == (3, 128, 86)
    assert torch.equal(shown[0], shown[2])


def test_what_is_no_image_is_refused() -> None:
    with pytest.raises(BadImagesError):
        picture(torch.rand(3, 4, 4), torch.rand(3, 4, 4) + 1)
