from pathlib import Path

import torch

from loradar.jobs.config import PretrainConfig
from loradar.jobs.pretrain import resolve, run
from loradar.models import load_base


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
