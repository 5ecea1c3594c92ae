"""Sources by a one-line name, and the built-in digits."""

from pathlib import Path

import pytest
import torch

from loradar.core.errors import BadDataError
from loradar.data import load_source
from loradar.data.source import Source


def test_digits_are_there_offline() -> None:
    source = load_source("digits")
    assert source.classes == tuple("0123456789")
    assert source.test is None
    assert len(source.train) == 1797
    x, y = source.train.fetch(torch.arange(1797))
    assert x.shape == (1797, 3, 32, 32)
    assert (float(x.min()), float(x.max())) == (0.0, 1.0)
    assert torch.equal(x[:, 0], x[:, 1])
    assert y.bincount().min() > 170
    # the mean picture of each digit tells the digits apart: images and labels belong together
    means = torch.stack([x[y == digit].mean(0) for digit in range(10)]).flatten(1)
    assert (torch.cdist(x.flatten(1), means).argmin(1) == y).float().mean() > 0.85
    assert load_source("digits", size=(8, 8)).train.size == (8, 8)


def test_a_split_is_read_once() -> None:
    source = load_source("digits")
    assert source.train is source.train


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("no/such/folder", "there is no data 'no/such/folder'; expected digits"),
        ("digits:image=a", "has no option 'image'; it takes none"),
        ("digits:size=8", "has no option 'size'"),
        ("hub:a/b:imag=x", "did you mean 'image'"),
    ],
)
def test_a_name_that_is_no_source_is_refused(spec: str, message: str) -> None:
    with pytest.raises(BadDataError, match=message) as raised:
        load_source(spec)
    assert "\n" not in str(raised.value)


def test_a_folder_of_images_takes_no_columns(tmp_path: Path) -> None:
    (tmp_path / "cat").mkdir()
    with pytest.raises(BadDataError, match="has no option 'label'"):
        load_source(f"{tmp_path}:label=x")


def test_a_source_without_splits_is_refused() -> None:
    with pytest.raises(BadDataError, match="has splits none"):
        Source(name="s", classes=("a",), splits={})
