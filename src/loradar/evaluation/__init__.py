"""Measured figures with their n, interval and threat model, and the checks that they deserve belief."""

from loradar.evaluation.battery import BatteryMember, MemberResult
from loradar.evaluation.data_checks import check_classes, check_unseen
from loradar.evaluation.intervals import sign_test, wilson
from loradar.evaluation.leak import LabelLeakResult, PlantedLabel, leak_test
from loradar.evaluation.leak_power import LeakPower
from loradar.evaluation.leak_signs import Sign
from loradar.evaluation.masking_checks import Check, check_masking, check_transfer
from loradar.evaluation.measure import NO_ATTACK, AccuracyResult, accuracy_row, correct, device_of, predict, run_attack
from loradar.evaluation.names import labels, short_names
from loradar.evaluation.pictures import Picture, png
from loradar.evaluation.versions import versions
from loradar.evaluation.workbench import Workbench, open_bench
from loradar.evaluation.worst_case import BatteryResult, Probe, Target, WorstCase, check_worst_cases, worst_case

__all__ = [
    "NO_ATTACK",
    "AccuracyResult",
    "BatteryMember",
    "BatteryResult",
    "Check",
    "LabelLeakResult",
    "LeakPower",
    "MemberResult",
    "Picture",
    "PlantedLabel",
    "Probe",
    "Sign",
    "Target",
    "Workbench",
    "WorstCase",
    "accuracy_row",
    "check_classes",
    "check_masking",
    "check_transfer",
    "check_unseen",
    "check_worst_cases",
    "correct",
    "device_of",
    "labels",
    "leak_test",
    "open_bench",
    "png",
    "predict",
    "run_attack",
    "short_names",
    "sign_test",
    "versions",
    "wilson",
    "worst_case",
]
