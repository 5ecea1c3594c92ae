"""Adapters: low-rank changes of a frozen base, and the files they live in."""

from loradar.adapters.adapter import Adapter, fresh, whole
from loradar.adapters.card import Card
from loradar.adapters.delta import Delta
from loradar.adapters.files import load, save, verify
from loradar.adapters.fingerprint import fingerprint
from loradar.adapters.init import Start, start
from loradar.adapters.layers import find_head, find_norms
from loradar.adapters.plug import fold, plug, without_head
from loradar.adapters.pool import AdapterPool, check_shared_start, merge
from loradar.adapters.spectrum import on_residual, residual, trimmed, truncated
from loradar.adapters.switch import AdapterSwitch
from loradar.adapters.targets import PRESETS, find_targets

__all__ = [
    "PRESETS",
    "Adapter",
    "AdapterPool",
    "AdapterSwitch",
    "Card",
    "Delta",
    "Start",
    "check_shared_start",
    "find_head",
    "find_norms",
    "find_targets",
    "fingerprint",
    "fold",
    "fresh",
    "load",
    "merge",
    "on_residual",
    "plug",
    "residual",
    "save",
    "start",
    "trimmed",
    "truncated",
    "verify",
    "whole",
    "without_head",
]
