import pytest
import torch

from loradar.core.checks import check_images, check_labels
from loradar.core.errors import BadImagesError, LoradarError


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_images_of_every_float_pass_up_to_the_bounds(dtype: torch.dtype) -> None:
    x = torch.tensor([0.0, 1.0], dtype=dtype).view(2, 1, 1, 1)
    check_images(x)
    for beyond in (x - 0.01, x + 0.01):
        with pytest.raises(BadImagesError, match=r"expected \[0, 1\]"):
            check_images(beyond)


@pytest.mark.parametrize(
    ("x", "words"),
    [
        (torch.zeros(3, 4, 4), r"shape \(3, 4, 4\); expected \(batch, channels, height, width\)"),
        (torch.zeros(1, 3, 4, 4, dtype=torch.uint8), r"torch.uint8; .*x.float\(\) / 255"),
        (torch.zeros(0, 3, 4, 4), "nothing in the batch"),
        (torch.full((1, 1, 2, 2), float("nan")), "NaN or infinite"),
        (torch.tensor([0.0, float("inf")]).view(1, 1, 1, 2), "NaN or infinite"),
        (torch.tensor([0.5, float("nan")]).view(1, 1, 1, 2), "NaN or infinite"),
        (torch.tensor([-0.5, 1.0]).view(1, 1, 1, 2), r"span \[-0.5, 1\]; expected \[0, 1\]"),
        (torch.tensor([0.0, 255.0]).view(1, 1, 1, 2), r"span \[0, 255\].*normalisation belongs inside the model"),
    ],
)
def test_what_is_no_image_is_refused_with_its_numbers(x: torch.Tensor, words: str) -> None:
    with pytest.raises(BadImagesError, match=words):
        check_images(x)


def test_labels_pass_up_to_the_last_class() -> None:
    check_labels(torch.tensor([0, 9]), count=2, classes=10)
    with pytest.raises(LoradarError, match="the model has 9 classes"):
        check_labels(torch.tensor([0, 9]), count=2, classes=9)
    check_labels(torch.tensor([0, 9], dtype=torch.int32), count=2)
    check_labels(torch.tensor([], dtype=torch.int64), count=0, classes=10)


@pytest.mark.parametrize(
    ("y", "words"),
    [
        (torch.tensor([0]), r"shape \(1,\); expected 2 integers"),
        (torch.tensor([[0, 1]]), "expected 2 integers"),
        (torch.tensor([0.0, 1.0]), "torch.float32 .*expected 2 integers"),
        (torch.tensor([True, False]), "torch.bool .*expected 2 integers"),
        (torch.tensor([0, 3]), r"span \[0, 3\]; the model has 3 classes, so expected 0 to 2"),
        (torch.tensor([-1, 2]), r"span \[-1, 2\]"),
    ],
)
def test_what_is_no_label_is_refused_with_its_numbers(y: torch.Tensor, words: str) -> None:
    with pytest.raises(BadImagesError, match=words) as caught:
        check_labels(y, count=2, classes=3)
    assert isinstance(caught.value, LoradarError | ValueError)
    assert "\n" not in str(caught.value)
