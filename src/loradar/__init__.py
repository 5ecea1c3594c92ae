"""Small adversarial low-rank adapters that make frozen image classifiers robust, measured honestly.

Names are loaded when they are first used: `import loradar` itself imports no torch.
"""

import importlib
from typing import TYPE_CHECKING

__version__ = "0.1.0"

_HOMES = {
    "loradar.api": ("check", "evaluate", "export", "harden", "load", "plug"),
    "loradar.adapters": ("Adapter", "AdapterPool", "AdapterSwitch", "merge_weights"),
    "loradar.attacks": (
        *("FGSM", "FIA", "MIFGSM", "PGD", "ROA", "AutoAttack", "FunctionAttack", "RandomChoice", "WorstOf"),
        *("parse_attack", "register"),
    ),
    "loradar.core.errors": ("LoradarError",),
    "loradar.fewshot.classifier": ("FewShotClassifier",),
    "loradar.guard.guard": ("Guard",),
    "loradar.models": ("Base", "load_base", "wrap"),
}
_HOME = {name: module for module, names in _HOMES.items() for name in names}

__all__ = ["__version__", *sorted(_HOME)]

if TYPE_CHECKING:
    from loradar.adapters import Adapter as Adapter
    from loradar.adapters import AdapterPool as AdapterPool
    from loradar.adapters import AdapterSwitch as AdapterSwitch
    from loradar.adapters import merge_weights as merge_weights
    from loradar.api import check as check
    from loradar.api import evaluate as evaluate
    from loradar.api import export as export
    from loradar.api import harden as harden
    from loradar.api import load as load
    from loradar.api import plug as plug
    from loradar.attacks import FGSM as FGSM
    from loradar.attacks import FIA as FIA
    from loradar.attacks import MIFGSM as MIFGSM
    from loradar.attacks import PGD as PGD
    from loradar.attacks import ROA as ROA
    from loradar.attacks import AutoAttack as AutoAttack
    from loradar.attacks import FunctionAttack as FunctionAttack
    from loradar.attacks import RandomChoice as RandomChoice
    from loradar.attacks import WorstOf as WorstOf
    from loradar.attacks import parse_attack as parse_attack
    from loradar.attacks import register as register
    from loradar.core.errors import LoradarError as LoradarError
    from loradar.fewshot.classifier import FewShotClassifier as FewShotClassifier
    from loradar.guard.guard import Guard as Guard
    from loradar.models import Base as Base
    from loradar.models import load_base as load_base
    from loradar.models import wrap as wrap


def __getattr__(name: str) -> object:
    if name not in _HOME:
        raise AttributeError(f"module 'loradar' has no attribute {name!r}")
    value: object = getattr(importlib.import_module(_HOME[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return __all__
