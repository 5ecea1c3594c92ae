"""Few-shot in miniature: a ViT and a ResNet with random weights, the built-in digits, every part in place."""

from pathlib import Path
from typing import Any

from loradar.config import MetaTuneConfig
from loradar.models import new_base, save_base

BASES: dict[str, dict[str, Any]] = {
    # ViT-S/16 with a smaller width and two blocks
    "vit": {"architecture": "timm:vit_small_patch16_224", "img_size": 32, "embed_dim": 48, "depth": 2, "num_heads": 3},
    "resnet": {"architecture": "timm:test_resnet"},
    "stages": {"architecture": "timm:test_resnet"},
}


def make_base(folder: Path, kind: str) -> str:
    """The base's spec; its folder is below `folder`, by the name of its kind."""
    options = dict(BASES[kind])
    name = str(options.pop("architecture"))
    place = save_base(folder / kind, new_base(name, num_classes=7, input_size=(3, 32, 32), seed=1, **options))
    return f"stages:{place}" if kind == "stages" else str(place)


def tuning(base: Path | str, out: Path, **changes: object) -> MetaTuneConfig:
    values: dict[str, object] = {
        "base": str(base),
        "data": "digits",
        "images_per_class": 12,
        "validation_classes": 4,
        "validation_episodes": 2,
        "out": out,
        "setting": "3w1s",
        "query": 2,
        "budgets": [0.1, 8],
        "rank": 2,
        "epochs": 2,
        "episodes": 2,
        "warm_up": 1,
        "learning_rate": 0.05,
        "precision": "fp32",
    }
    return MetaTuneConfig(**values | changes)
