"""The main job on built-in real data: no download, a few minutes."""

from pathlib import Path
from typing import Any

from loradar.config import HardenConfig, PretrainConfig
from loradar.core.types import Progress
from loradar.recipes.harden import harden
from loradar.recipes.pretrain import pretrain


def demo(out: Path, *, seed: int = 0, progress: Progress | None = None) -> Path:
    """A base on handwritten digits, adapters against ROA, FIA and PGD, and the report, whose path is returned."""
    shared: dict[str, Any] = {"data": "digits", "validation": 200, "limit": 400, "flip": False, "crop": 2, "seed": seed}
    base = out / "base"
    if not (base / "config.json").exists():
        pretrain(PretrainConfig(architecture="resnet18", epochs=12, out=base, **shared), progress=progress)
    return harden(
        HardenConfig(base=str(base), out=out / "harden", epochs=10, adaptive="all", **shared), progress=progress
    )
