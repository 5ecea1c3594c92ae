"""Presets of meta-tuning: each a table of settings, from which single ones may depart. Imports no torch."""

from typing import Any, Literal, TypeAlias

from loradar.core.presets import Presets

Preset: TypeAlias = Literal["quick", "standard", "paper"]

_FEATURES: dict[str, Any] = {
    "objective": "features",
    "attack": "fgsm:noise=2,clip=false",
    "step": 1.0,
    "rank": "<=16",
    "init": "random",
    "norm": "owned",
    "perturbation": "none",
    "optimizer": "adamw",
    "learning_rate": 4e-3,
    "clean_learning_rate": 5e-4,
    "average_decay": 0.99,
    "warm_up": 1,
    "head": "ridge",
    "validation_episodes": 10,
    "baselines": False,
}
PRESETS = Presets(
    key="preset",
    default="standard",
    tables={
        "quick": {
            **_FEATURES,
            "eps_255": [2, 6],
            "epochs": 4,
            "episodes": 75,
            "batch_size": 32,
        },
        "standard": {**_FEATURES, "eps_255": [1, 2, 4, 8], "epochs": 8, "episodes": 100, "batch_size": 64},
        "paper": {
            "objective": "tasks",
            "eps_255": [0.01, 0.1, 6, 8],
            "attack": "pgd:steps=2,loss=kl",
            "step": 0.5,
            "rank": 8,
            "init": "svd",
            "norm": "frozen",
            "perturbation": "relative",
            "optimizer": "sgd",
            "learning_rate": 5e-4,
            "clean_learning_rate": None,
            "average_decay": 0.0,
            "warm_up": 5,
            "head": "centroid",
            "validation_episodes": 20,
            "batch_size": 64,
            "epochs": 30,
            "episodes": 2000,
            "baselines": True,
        },
    },
    about={
        "quick": "a usable pool in minutes: two members, tuned briefly; less robust than standard",
        "standard": "members whose features stay under attack where the base has them clean",
        "paper": "few-shot tasks, as published",
    },
)
