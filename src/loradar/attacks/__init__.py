"""Attacks: frozen settings with a call, `x_adv = attack(model, x, y)`. One method per file."""

from loradar.attacks.apgd import APGD
from loradar.attacks.ascend import ascend
from loradar.attacks.auto_attack import AutoAttack
from loradar.attacks.base import BaseAttack, NormAttack
from loradar.attacks.feature_importance import FIA
from loradar.attacks.fgsm import FGSM
from loradar.attacks.foreign import ARTAttack, FoolboxAttack, ForeignAttack, FunctionAttack, TorchAttack, as_attack
from loradar.attacks.mi_fgsm import MIFGSM
from loradar.attacks.msd import MSD
from loradar.attacks.noise import UniformNoise
from loradar.attacks.objectives import without_gradient
from loradar.attacks.occlusion import ROA
from loradar.attacks.parsing import named_attack, named_attacks, parse_attack
from loradar.attacks.pgd import PGD
from loradar.attacks.pyramid import Pyramid
from loradar.attacks.random_choice import RandomChoice
from loradar.attacks.registry import AttackInfo, SettingInfo, available_attacks, describe_attack, register
from loradar.attacks.smooth import Smooth
from loradar.attacks.training import selection_attack, training_attack
from loradar.attacks.worst_of import WorstOf, strongest

__all__ = [
    "APGD",
    "FGSM",
    "FIA",
    "MIFGSM",
    "MSD",
    "PGD",
    "ROA",
    "ARTAttack",
    "AttackInfo",
    "AutoAttack",
    "BaseAttack",
    "FoolboxAttack",
    "ForeignAttack",
    "FunctionAttack",
    "NormAttack",
    "Pyramid",
    "RandomChoice",
    "SettingInfo",
    "Smooth",
    "TorchAttack",
    "UniformNoise",
    "WorstOf",
    "as_attack",
    "ascend",
    "available_attacks",
    "describe_attack",
    "named_attack",
    "named_attacks",
    "parse_attack",
    "register",
    "selection_attack",
    "strongest",
    "training_attack",
    "without_gradient",
]
