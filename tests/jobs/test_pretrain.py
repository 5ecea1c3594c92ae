from pathlib import Path

import pytest
import torch

from loradar.core.config import validate
from loradar.core.errors import BadDataError
from loradar.jobs.config import PretrainConfig
from loradar.jobs.pretrain import resolve, run
from loradar.models import load_base
from tests.data.pictures import png


def test_pretrain_writes_a_base_that_opens_and_says_how_it_was_made(tmp_path: Path) -> None:
    config = PretrainConfig(
        architecture="timm:test_resnet",
        out=tmp_path / "base",
        train=64,
        validation=8,
        max_test_images=20,
        epochs=2,
        batch_size=16,
        flip=False,
    )
    row = run(resolve(config)).row
    base = load_base(str(tmp_path / "base"))
    assert base.classes == tuple(str(i) for i in range(10))
    assert base.description["recipe"]["epochs"] == 2
    assert base.description["measured"]["correct"] == row.correct
    assert row.total == 20
    assert not base.model.training
    assert base.model(torch.rand(2, 3, 32, 32)).shape == (2, 10)
    assert list(tmp_path.iterdir()) == [tmp_path / "base"]


def test_pretrain_brings_pictures_of_mixed_sizes_to_one(tmp_path: Path) -> None:
    for label in range(2):
        (tmp_path / "data" / f"class{label}").mkdir(parents=True)
        for index in range(6):
            picture = png(10 * label + index, height=20 + 3 * index, width=40 - 2 * index)
            (tmp_path / "data" / f"class{label}" / f"{index}.png").write_bytes(picture)
    settings = {"data": str(tmp_path / "data"), "architecture": "timm:test_resnet", "epochs": 1, "batch_size": 2}
    with pytest.raises(BadDataError, match="size"):
        run(resolve(validate(PretrainConfig, settings | {"out": tmp_path / "none"})))
    run(resolve(validate(PretrainConfig, settings | {"out": tmp_path / "base", "size": "24x32"})))
    assert load_base(str(tmp_path / "base")).input_size == (3, 24, 32)
