"""Which rank each layer gets, of what a user asked for."""

from collections.abc import Mapping
from fnmatch import fnmatchcase
from math import prod

from torch import nn

from loradar.adapters.layers import weight_of
from loradar.core.errors import BadTargetError, did_you_mean
from loradar.core.ranks import RankRule, parse_rank

DEFAULT_RANK = 4


def ranks_of(
    backbone: nn.Module,
    groups: Mapping[str, int],
    rank: int | str | Mapping[str, int | str],
) -> dict[str, int]:
    """Returns the rank of each layer of `groups`, which says how many matrices its weight is; layers of rank 0 are left out.

    `rank` is a number for all, or one per pattern of names, of which the first that matches counts (see `parse_rank`).
    Layers that no pattern matches get DEFAULT_RANK. Raises BadTargetError for a pattern that holds for no layer.
    """
    if not groups:
        return {}
    rules = parse_rank(rank)
    holds = {name: next((rule for rule in rules if fnmatchcase(name, rule.pattern)), None) for name in groups}
    for rule in rules:
        if rule.pattern != "*" and rule not in holds.values():
            raise BadTargetError(_unused(rule, list(groups)))
    otherwise = RankRule(pattern="*", rank=DEFAULT_RANK)
    ranks = {name: _rank(backbone, name, groups[name], rule or otherwise) for name, rule in holds.items()}
    return {name: found for name, found in ranks.items() if found}


def largest_rank(backbone: nn.Module, name: str, groups: int = 1) -> int:
    """Returns the smaller side of the matrices that the weight of layer `name` is."""
    weight = weight_of(backbone, name)
    return min(len(weight) // groups, prod(weight.shape[1:]))


def common_rank(ranks: Mapping[str, int]) -> int:
    """Returns the rank that all layers have, 0 where they differ, as a card says it."""
    return next(iter(ranks.values())) if len(set(ranks.values())) == 1 else 0


def _rank(backbone: nn.Module, name: str, groups: int, rule: RankRule) -> int:
    return min(rule.rank, largest_rank(backbone, name, groups)) if rule.capped else rule.rank


def _unused(rule: RankRule, names: list[str]) -> str:
    if any(fnmatchcase(name, rule.pattern) for name in names):
        return f"the rank of {rule.pattern!r} holds for no layer: patterns before it match them all; put it first"
    return f"the rank of {rule.pattern!r} holds for no layer that is adapted; {did_you_mean(rule.pattern, names)}"


def rank_in_words(ranks: Mapping[str, int]) -> str:
    """Names one rank, or each with its layers.

    >>> rank_in_words({"conv1": 4, "conv2": 4})
    'rank 4'
    >>> rank_in_words({"conv1": 4, "conv2": 16, "conv3": 4})
    'rank 4 (conv1, conv3), 16 (conv2)'
    """
    layers: dict[int, list[str]] = {}
    for name, rank in ranks.items():
        layers.setdefault(rank, []).append(name)
    if len(layers) < 2:
        return f"rank {next(iter(layers), 0)}"
    return "rank " + ", ".join(f"{rank} ({', '.join(layers[rank])})" for rank in sorted(layers))
