"""Named recipes of hardening: each a table of settings, from which single ones may depart. Imports no torch."""

from typing import Any, Literal, TypeAlias

from loradar.core.presets import Presets

Recipe: TypeAlias = Literal["fast", "balanced", "strong", "transfer"]
DEFAULT: Recipe = "balanced"

_ADAPTIVE: dict[str, Any] = {
    "attack_target": "defended",
    "target_modules": ["all"],
    "rank": "<=16",
    "norm": "owned",
    "learning_rate": 4e-3,
    "schedule": "one-cycle",
    "average_decay": 0.998,
}
RECIPES = Presets(
    key="recipe",
    default=DEFAULT,
    tables={
        "fast": {**_ADAPTIVE, "epochs": 4, "train_steps": 1, "clean_weight": 0.0, "average_decay": 0.99},
        "balanced": {**_ADAPTIVE, "epochs": 8, "train_steps": 2, "clean_weight": 0.5},
        "strong": {**_ADAPTIVE, "epochs": 24, "train_steps": 1, "clean_weight": 0.0},
        "transfer": {
            "attack_target": "base",
            "target_modules": ["auto"],
            "rank": 4,
            "norm": "frozen",
            "learning_rate": 1e-3,
            "schedule": "step",
            "average_decay": 0.0,
            "epochs": 10,
            "train_steps": 0,
            "clean_weight": 0.5,
        },
    },
    about={
        "fast": "robust in minutes: one-step attacks (ten steps in a rectangle) on the adapted model, "
        "the loss on attacked images alone",
        "balanced": "most of the clean accuracy and some robustness: clean and attacked images alike",
        "strong": "most robust: longer, the loss on attacked images alone",
        "transfer": "images crafted once on the base; holds against attackers who do not know the adapter, and no others",
    },
)


def with_recipe(settings: Any) -> Any:
    """Returns `settings` with those of their recipe that they do not give; anything but a table is returned as it is.

    A budget of bytes stands in the place of the recipe's rank.
    """
    if isinstance(settings, dict) and settings.get("max_bytes") is not None:
        settings = {"rank": None, **settings}
    return RECIPES.filled(settings)
