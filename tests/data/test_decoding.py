"""Stored pictures to pixels."""

import io

import numpy as np
import pytest
import torch
from PIL import Image

from loradar.core.errors import BadDataError
from loradar.data.decoding import decode, scaled
from tests.data.pictures import coded, pixels, png


def _picture(picture: Image.Image, **options: object) -> bytes:
    file = io.BytesIO()
    picture.save(file, format="PNG", **options)
    return file.getvalue()


def test_a_lossless_picture_comes_back_as_it_was() -> None:
    array = pixels(3, height=5, width=7)
    for kind in ("PNG", "BMP", "TIFF"):
        found = decode(coded(array, kind), "a")
        assert found.dtype == torch.uint8
        assert found.shape == (3, 5, 7)
        assert np.array_equal(found.permute(1, 2, 0).numpy(), array)


@pytest.mark.parametrize("mode", ["L", "LA", "P", "RGBA", "1", "CMYK"])
def test_every_usual_mode_becomes_rgb(mode: str) -> None:
    picture = Image.fromarray(pixels(1)).convert(mode)
    file = io.BytesIO()
    picture.save(file, format="TIFF" if mode == "CMYK" else "PNG")
    found = decode(file.getvalue(), "a")
    assert np.array_equal(found.permute(1, 2, 0).numpy(), np.asarray(picture.convert("RGB")))


def test_a_palette_with_transparency_is_read_without_a_warning() -> None:
    picture = Image.fromarray(pixels(1)).quantize(4)
    assert decode(_picture(picture, transparency=b"\x00\x80\xff\xff"), "a").shape == (3, 8, 8)


def test_sixteen_bits_are_refused_rather_than_clipped() -> None:
    deep = Image.fromarray(np.full((4, 4), 40_000, dtype=np.uint16))
    with pytest.raises(BadDataError, match=r"a\.png has mode I;16; expected 8 bits"):
        decode(_picture(deep), "a.png")


def test_another_size_is_covered_and_cropped_about_the_centre() -> None:
    array = np.zeros((8, 16, 3), dtype=np.uint8)
    array[:, 4:12] = 200  # the middle square
    found = decode(coded(array), "a", size=(4, 4))
    assert found.shape == (3, 4, 4)
    assert found[:, :, 1:3].min() == 200
    assert decode(coded(array), "a", size=(8, 8)).min() == 200


def test_another_size_is_refused_where_nobody_asked_to_scale() -> None:
    with pytest.raises(BadDataError, match=r"b\.png is 8x9; expected 8x8"):
        decode(png(0, width=9), "b.png", size=(8, 8), scale=False)


@pytest.mark.parametrize("data", [b"", b"no picture", png(0)[:60], coded(pixels(0, height=64), "JPEG")[:700]])
def test_a_broken_picture_is_named(data: bytes) -> None:
    with pytest.raises(BadDataError, match=r"cat/7\.jpg cannot be read as an image") as raised:
        decode(data, "cat/7.jpg")
    assert "\n" not in str(raised.value)


def test_pixels_are_scaled_as_pictures_are() -> None:
    array = pixels(2, height=12, width=12)
    batch = torch.from_numpy(array).permute(2, 0, 1)[None]
    assert torch.equal(scaled(batch, (6, 6))[0], decode(coded(array), "a", size=(6, 6)))
    assert scaled(batch, None) is batch
    assert scaled(batch, (12, 12)) is batch
