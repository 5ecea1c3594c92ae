"""Adapters: low-rank changes of a frozen base, and the files they live in."""

from loradar.adapters.adapter import Adapter
from loradar.adapters.building import full_adapter, init_adapter
from loradar.adapters.card import Card, Norm
from loradar.adapters.delta import Delta
from loradar.adapters.factoring import Factored, factor
from loradar.adapters.features import feature_extractor
from loradar.adapters.files import load, read_adapter, verify
from loradar.adapters.fingerprint import fingerprint
from loradar.adapters.heads import find_head, find_heads
from loradar.adapters.init import Init, init_delta
from loradar.adapters.layers import find_norms
from loradar.adapters.plug import merge_weights, plug, update_merged
from loradar.adapters.pool import AdapterPool, add_weighted, check_shared_start, load_named
from loradar.adapters.ranks import rank_in_words
from loradar.adapters.saving import save
from loradar.adapters.spectrum import on_residual, residual, truncate_spectrum, truncated
from loradar.adapters.switch import AdapterSwitch
from loradar.adapters.targets import PRESETS, find_targets, target_share

__all__ = [
    "PRESETS",
    "Adapter",
    "AdapterPool",
    "AdapterSwitch",
    "Card",
    "Delta",
    "Factored",
    "Init",
    "Norm",
    "add_weighted",
    "check_shared_start",
    "factor",
    "feature_extractor",
    "find_head",
    "find_heads",
    "find_norms",
    "find_targets",
    "fingerprint",
    "full_adapter",
    "init_adapter",
    "init_delta",
    "load",
    "load_named",
    "merge_weights",
    "on_residual",
    "plug",
    "rank_in_words",
    "read_adapter",
    "residual",
    "save",
    "target_share",
    "truncate_spectrum",
    "truncated",
    "update_merged",
    "verify",
]
