"""Measures stay in range, do what they are named for, and let gradients through."""

import io

import pytest
import torch
from PIL import Image

from loradar.guard.defenses import bit_depth, inpaint, jpeg, smooth, transforms
from tests.guard import toys


@pytest.mark.parametrize("name", ["inpaint", "smooth", "jpeg", "bit-depth"])
@pytest.mark.parametrize("size", [(32, 32), (13, 21)])
def test_images_stay_images_and_gradients_pass(name: str, size: tuple[int, int]) -> None:
    x = torch.rand(2, 3, *size, generator=torch.Generator().manual_seed(0)).requires_grad_()
    changed = {str(k): v for k, v in transforms((5, 5)).items()}[name](x)
    assert changed.shape == x.shape
    assert 0 <= float(changed.detach().min()) <= float(changed.detach().max()) <= 1
    assert not torch.equal(changed, x)
    (grad,) = torch.autograd.grad(changed.sum(), x)
    assert bool(grad.any())


def test_jpeg_loses_what_pillow_loses() -> None:
    x = (toys.attacked("noise", toys.smooth_images(3)) * 255).round() / 255
    ours = jpeg(x, quality=60)
    for image, found in zip(x, ours, strict=True):
        file = io.BytesIO()
        array = (image * 255).byte().permute(1, 2, 0).numpy()
        Image.fromarray(array).save(file, format="JPEG", quality=60, subsampling=0)
        pillow = torch.frombuffer(bytearray(Image.open(file).convert("RGB").tobytes()), dtype=torch.uint8)
        theirs = pillow.view(32, 32, 3).permute(2, 0, 1).float() / 255
        # 8-bit rounding on the way tips some coefficients over to the next multiple; most pixels differ by less than a step
        assert float((theirs - found).abs().median()) < 1 / 255
        assert float((theirs - found).abs().mean()) < 0.2 * float((theirs - image).abs().mean())


def test_bit_depth_leaves_so_many_levels() -> None:
    steps = bit_depth(torch.linspace(0, 1, 300).view(1, 1, 10, 30), bits=3) * 7
    torch.testing.assert_close(steps, steps.round())
    assert set(steps.round().flatten().tolist()) == set(range(8))


def test_smoothing_takes_noise_away() -> None:
    x = toys.smooth_images(2)
    noisy = toys.attacked("noise", x)
    assert float((smooth(noisy) - x).abs().mean()) < 0.6 * float((noisy - x).abs().mean())


def test_inpainting_takes_the_rectangle_away() -> None:
    x = toys.smooth_images(3)
    patched = toys.attacked("patch", x)
    filled = inpaint(patched, window=(5, 5))
    assert float((filled - x).abs().amax()) < 0.75 * float((patched - x).abs().amax())
    assert float((filled - x).square().sum()) < 0.3 * float((patched - x).square().sum())
