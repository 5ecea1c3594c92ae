"""Attacks: frozen settings with a call, `x_adv = attack(model, x, y)`. One method per file."""

from loradar.attacks.ascend import ascend
from loradar.attacks.auto_attack import AutoAttack
from loradar.attacks.feature_importance import FIA
from loradar.attacks.fgsm import FGSM
from loradar.attacks.mi_fgsm import MIFGSM
from loradar.attacks.noise import UniformNoise
from loradar.attacks.occlusion import ROA
from loradar.attacks.pgd import PGD
from loradar.attacks.pyramid import Pyramid
from loradar.attacks.random_choice import OneOf
from loradar.attacks.registry import layers_read, named_attack, named_attacks, parse_attack, reseeded
from loradar.attacks.worst_of import WorstOf, strongest

__all__ = [
    "FGSM",
    "FIA",
    "MIFGSM",
    "PGD",
    "ROA",
    "AutoAttack",
    "OneOf",
    "Pyramid",
    "UniformNoise",
    "WorstOf",
    "ascend",
    "layers_read",
    "named_attack",
    "named_attacks",
    "parse_attack",
    "reseeded",
    "strongest",
]
