"""Every save of a folder that takes the place of another, and how that folder is read."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from loradar.adapters import init_adapter, load, save
from loradar.models import load_base, new_base, save_base

if TYPE_CHECKING:
    from loradar.guard.guard import Guard


def saved(folder: Path) -> None:
    """What the saves of a base and an adapter replace: a base and two adapters of it."""
    classes = [str(i) for i in range(10)]
    base = new_base("timm:test_resnet", num_classes=10, input_size=(3, 32, 32), classes=classes, seed=1)
    save_base(folder / "base", base)
    for name in ("roa", "fast"):
        save(init_adapter(base.model, rank=2, name=name), folder / "adapters" / name)


def _save_adapter(folder: Path) -> None:
    """Another adapter in the place of the one that may be there."""
    one = load(folder / "adapters" / "roa")
    save(one.with_card(name="new"), folder / "adapters" / "fast")


def _save_base(folder: Path) -> None:
    base = load_base(str(folder / "base"))
    base.description["note"] = "new"
    with torch.no_grad():
        next(base.model.parameters()).add_(1)
    save_base(folder / "base", base)


def _save_guard(folder: Path) -> None:
    _open_guard(folder / "guard").replace(abstain=0.25).save(folder / "guard")


def _open_guard(place: Path) -> "Guard":
    from loradar.guard.guard import Guard

    return Guard.open(place, base=str(place.parent / "base"))


@dataclass(frozen=True)
class Save:
    """Replaces `place` of a folder, which `read` opens."""

    place: str
    save: Callable[[Path], None]
    read: Callable[[Path], object]


SAVES = {
    "save adapter": Save("adapters/fast", _save_adapter, load),
    "save base": Save("base", _save_base, lambda place: load_base(str(place))),
    "save guard": Save("guard", _save_guard, _open_guard),
}
