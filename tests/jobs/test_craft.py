"""Attacked images: in shards as at once, to the bit, and the images that harden trains on."""

from pathlib import Path

import pytest
import safetensors.torch
import torch

from loradar.attacks import PGD
from loradar.core.errors import BadConfigError
from loradar.evaluation import run_attack
from loradar.evaluation.workbench import open_bench
from loradar.jobs import craft
from loradar.jobs.config import CraftConfig


def settings(base: Path, folder: Path, **changes: object) -> CraftConfig:
    values: dict[str, object] = {
        "base": str(base),
        "out": folder / "out",
        "cache": folder / "cache",
        "attacks": ["mine=pgd:steps=2"],
        "split": "reported",
        "max_test_images": 45,
        "batch_size": 8,
        "precision": "fp32",
    }
    return CraftConfig(**values | changes)


def test_shards_give_the_images_of_one_run(base_folder: Path, tmp_path: Path) -> None:
    whole = craft.run(craft.resolve(settings(base_folder, tmp_path / "whole")))
    config = settings(base_folder, tmp_path / "parts", shards=4)
    for name in reversed(craft.parts(config)):  # in any order
        if name != "1/4":  # a shard that nobody did is crafted when they are merged
            craft.run_part(craft.resolve(config), name)
    merged = craft.run(craft.resolve(config))
    assert merged.files["mine"].read_bytes() == whole.files["mine"].read_bytes()
    kept = safetensors.torch.load_file(merged.files["mine"])
    assert kept["images"].shape == (45, 3, 32, 32)
    job = craft.resolve(config)
    x, y = job.images.fetch(torch.arange(45))
    assert torch.equal(kept["labels"], y)
    bench = open_bench(job.base, config, None)
    expected = run_attack(PGD(steps=2), bench.optimized(job.base.model), x, y, batch_size=8)
    assert torch.equal(kept["images"], expected)
    seconds = craft.estimate(job)
    assert set(seconds) == set(craft.parts(config))
    assert min(seconds.values()) > 0


def test_a_shard_alone_is_kept_in_the_cache(base_folder: Path, tmp_path: Path) -> None:
    assert craft.run(craft.resolve(settings(base_folder, tmp_path, shard="2/3"))).files == {}
    assert not list((tmp_path / "out").glob("*.safetensors"))
    # one of more shards than batches may have nothing to do
    assert craft.run(craft.resolve(settings(base_folder, tmp_path, shard="0/9"))).files == {}
    assert len(list((tmp_path / "cache").rglob("*.safetensors"))) == 2  # batches 4 and 5 of 0 to 5


@pytest.mark.parametrize(("count", "batch_size", "shards"), [(45, 8, 4), (7, 8, 3), (16, 8, 2), (1000, 1, 7)])
def test_shards_are_whole_batches_and_every_image_once(count: int, batch_size: int, shards: int) -> None:
    found = [craft.rows_of(f"{number}/{shards}", count, batch_size) for number in range(shards)]
    assert torch.equal(torch.cat(found), torch.arange(count))
    assert all(len(rows) == 0 or rows[0] % batch_size == 0 for rows in found)


def test_a_shard_that_is_not_there_is_one_line() -> None:
    with pytest.raises(BadConfigError, match="shard is 3/3; expected one of 0/3 to 2/3"):
        craft.rows_of("3/3", 10, 2)
    with pytest.raises(BadConfigError, match="shard is 8/0; expected one of 0/8 to 7/8, for example"):
        craft.rows_of("8/0", 10, 2)
