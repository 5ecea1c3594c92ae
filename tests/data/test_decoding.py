"""Stored pictures to pixels."""

import io
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from loradar.core.errors import BadDataError
from loradar.data.decoding import can_open, decode, picture_pixels, scaled
from tests.data.pictures import coded, needs, pixels, png


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
    with pytest.raises(BadDataError, match=r"b\.png is 8x9; expected 8x8 .*--size N"):
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


def _turned(orientation: int, kind: str, mode: str) -> tuple[bytes, Image.Image]:
    """A picture that is to be turned, and what it is to look like: four colours, blurred by no codec beyond a hint."""
    corners = np.zeros((16, 32, 3), dtype=np.uint8)
    corners[:8, :16], corners[8:, :16], corners[:8, 16:], corners[8:, 16:] = (240, 0, 0), (0, 240, 0), (0, 0, 240), 120
    picture = Image.fromarray(corners)
    picture = picture.quantize(8) if mode == "P" else picture.convert(mode)
    exif = Image.Exif()
    exif[0x0112] = orientation
    file = io.BytesIO()
    picture.save(file, format=kind, exif=exif)
    steps = {2: (0,), 3: (3,), 4: (1,), 5: (5,), 6: (4,), 7: (6,), 8: (2,)}
    for step in steps.get(orientation, ()):
        picture = picture.transpose(Image.Transpose(step))
    return file.getvalue(), picture.convert("RGB")


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize(
    ("kind", "mode"),
    [
        *(("PNG", mode) for mode in ("RGB", "L", "P", "RGBA", "LA")),
        *(("JPEG", mode) for mode in ("RGB", "L", "CMYK")),
        *(("TIFF", mode) for mode in ("RGB", "L", "RGBA", "CMYK")),
        *(("WEBP", mode) for mode in ("RGB", "RGBA")),
        ("MPO", "RGB"),
        ("AVIF", "RGB"),
    ],
)
def test_a_picture_is_turned_as_its_exif_block_says(kind: str, mode: str, orientation: int) -> None:
    needs(kind)
    data, upright = _turned(orientation, kind, mode)
    expected = torch.from_numpy(np.array(upright)).permute(2, 0, 1).int()
    found = decode(data, "a")
    assert found.shape == expected.shape
    # away from the edges, where lossy codecs ring
    centre = (slice(None), slice(2, None, 4), slice(2, None, 4))
    assert (found[centre].int() - expected[centre]).abs().max() <= 40
    size = (upright.height, upright.width)
    assert torch.equal(decode(data, "a", size=size, scale=False), found)


@pytest.mark.parametrize("kind", ["PNG", "WEBP"])
@pytest.mark.parametrize("block", [b"Exif\0\0garbage", b"no EXIF at all"])
def test_a_damaged_exif_block_hides_no_picture(kind: str, block: bytes) -> None:
    file = io.BytesIO()
    Image.new("RGB", (8, 6), (9, 9, 9)).save(file, format=kind, exif=block)
    assert decode(file.getvalue(), "a").shape == (3, 6, 8)


def test_a_turned_picture_of_pillow_is_turned_too() -> None:
    data, upright = _turned(6, "PNG", "RGB")
    with Image.open(io.BytesIO(data)) as picture:
        assert np.array_equal(picture_pixels(picture).permute(1, 2, 0).numpy(), np.asarray(upright))


@pytest.mark.parametrize(
    ("kind", "mode"), [("PNG", "I;16"), ("TIFF", "I;16"), ("TIFF", "I"), ("TIFF", "F"), ("PPM", "I")]
)
def test_deep_pictures_are_refused_whatever_their_format(kind: str, mode: str) -> None:
    file = io.BytesIO()
    Image.new(mode, (4, 4)).save(file, format=kind)
    with pytest.raises(BadDataError, match="expected 8 bits a channel"):
        decode(file.getvalue(), "a")


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P", "PA"])
def test_transparent_pixels_keep_their_colour(mode: str) -> None:
    picture = Image.fromarray(pixels(1)).convert("RGBA")
    picture.putalpha(0)
    if mode in ("P", "PA"):
        picture = picture.convert("RGB").quantize(8)
        data = _picture(picture, transparency=0)
    else:
        picture = picture.convert(mode)
        data = _picture(picture)
    expected = np.asarray(picture.convert("RGBA").convert("RGB"))
    assert np.array_equal(decode(data, "a").permute(1, 2, 0).numpy(), expected)


def test_what_pillow_would_hand_to_another_program_is_no_picture(tmp_path: Path) -> None:
    script = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n%%EndComments\nshowpage\n"
    (tmp_path / "a.eps").write_bytes(script)
    assert not can_open(tmp_path / "a.eps")
    with pytest.raises(BadDataError, match="cannot be read as an image"):
        decode(script, "a.eps")


@given(
    st.integers(1, 4),
    st.tuples(st.integers(1, 24), st.integers(1, 24)),
    st.tuples(st.integers(1, 16), st.integers(1, 16)),
)
def test_floats_are_scaled_as_bytes_are(channels: int, shape: tuple[int, int], size: tuple[int, int]) -> None:
    raw = np.random.default_rng(channels).integers(0, 256, (2, channels, *shape), dtype=np.uint8)
    coarse = scaled(torch.from_numpy(raw), size)
    fine = scaled(torch.from_numpy(raw).float() / 255, size)
    assert coarse.shape == fine.shape == (2, channels, *size)
    assert fine.min() >= 0
    assert fine.max() <= 1
    # Pillow rounds bytes twice: once for rows, once for columns
    assert (coarse.float() / 255 - fine).abs().max() <= 1.6 / 255
