"""Labelled images in [0, 1] from files, the hub, memory or the built-in digits; disjoint splits; crops and flips."""

from loradar.data.augment import augment, varied
from loradar.data.benign import BENIGN_KINDS, change_benignly
from loradar.data.corruptions import CORRUPTIONS, SEVERITIES, Corruption, corrupt
from loradar.data.decoding import read_images
from loradar.data.images import ImageSet, fetch_all
from loradar.data.memory import as_source
from loradar.data.source import Source
from loradar.data.sources import load_source
from loradar.data.splits import Splits, split

__all__ = [
    "BENIGN_KINDS",
    "CORRUPTIONS",
    "SEVERITIES",
    "Corruption",
    "ImageSet",
    "Source",
    "Splits",
    "as_source",
    "augment",
    "change_benignly",
    "corrupt",
    "fetch_all",
    "load_source",
    "read_images",
    "split",
    "varied",
]
