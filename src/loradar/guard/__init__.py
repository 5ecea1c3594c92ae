"""Floor 2: adapters that vote, an identifier that names the attack, measures against it, and the traffic's monitor."""

from loradar.guard.calibration import Bins, Calibration, calibrate, reliability
from loradar.guard.features import loudest, opinion_features, residual_statistics
from loradar.guard.files import GuardRecord, read_guard, save_guard
from loradar.guard.fusion import FUSIONS, RULES, Opinions, Rule
from loradar.guard.guard import ABSTAINED, Guard, Parts, Verdict
from loradar.guard.identify import Identifier, fit_identifier, fit_prior
from loradar.guard.masking import MaskSet, certified, cleansed, pair_answers, two_round
from loradar.guard.measures import MEASURES, Measure
from loradar.guard.monitor import Event, TrafficMonitor
from loradar.guard.respond import CLEAN, UNKNOWN, Level, Policy
from loradar.guard.settings import BASE, GuardSettings
from loradar.guard.surrogate import STATEMENT, Surrogate
from loradar.guard.trunk import Trunk, share

__all__ = [
    "ABSTAINED",
    "BASE",
    "CLEAN",
    "FUSIONS",
    "MEASURES",
    "RULES",
    "STATEMENT",
    "UNKNOWN",
    "Bins",
    "Calibration",
    "Event",
    "Guard",
    "GuardRecord",
    "GuardSettings",
    "Identifier",
    "Level",
    "MaskSet",
    "Measure",
    "Opinions",
    "Parts",
    "Policy",
    "Rule",
    "Surrogate",
    "TrafficMonitor",
    "Trunk",
    "Verdict",
    "calibrate",
    "certified",
    "cleansed",
    "fit_identifier",
    "fit_prior",
    "loudest",
    "opinion_features",
    "pair_answers",
    "read_guard",
    "reliability",
    "residual_statistics",
    "save_guard",
    "share",
    "two_round",
]
