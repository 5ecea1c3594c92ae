"""Few-shot in miniature: a ViT and a ResNet with random weights, the built-in digits, every part in place."""

from pathlib import Path
from typing import Any

import torch

from loradar.fewshot.config import MetaTuneConfig
from loradar.fewshot.engine import TaskEngine
from loradar.fewshot.episode import Episode
from loradar.fewshot.pools import FeatureCache, PoolModels, base_of, open_baselines, open_pool
from loradar.fewshot.tasks import Task, in_order, named_domain
from loradar.models import new_base, open_base, save_base

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
        "preset": "paper",
        "data": "digits",
        "images_per_class": 12,
        "validation_classes": 4,
        "validation_episodes": 2,
        "out": out,
        "setting": "3w1s",
        "query": 2,
        "eps_255": [0.1, 8],
        "rank": 2,
        "epochs": 2,
        "episodes": 2,
        "warm_up": 1,
        "learning_rate": 0.05,
        "precision": "fp32",
    }
    return MetaTuneConfig(**values | changes)


def engine_of(place: Path, support: Path, *, n_augmentations: int = 1) -> TaskEngine:
    """The images of `support`, three classes, as a task of the pool in `place`: support and query alike."""
    models = PoolModels.of(
        open_base(base_of(place), "cpu").model,
        open_pool(place),
        baselines=open_baselines(place),
        precision="fp32",
        n_augmentations=n_augmentations,
    )
    domain = named_domain(f"support={support}", size=(32, 32), seed=0)
    every = torch.arange(len(domain.images))
    x, labels = in_order(*domain.images.fetch(every))
    episode = Episode(classes=(0, 1, 2), support=every, support_labels=labels, query=every, query_labels=labels)
    cache = FeatureCache(models=models, fetch=lambda indices: x[indices])
    return TaskEngine(models=models, cache=cache, task=Task(episode=episode, support=x, query=x))
