"""Few-shot tasks, drawn from the labels of a set: deterministic, support and query disjoint."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from math import floor, log
from typing import Protocol

import torch
from torch import Tensor

from loradar.core.config import shown
from loradar.core.errors import BadConfigError, BadDataError
from loradar.core.randomness import generator
from loradar.core.types import Labels


@dataclass(frozen=True, kw_only=True, eq=False)
class Episode:
    """One task. `support` and `query` are indices of images, `support_labels` and `query_labels` count from 0 to way - 1.

    `classes[i]` is the label, in the set that the task was drawn from, of the task's class i.
    """

    classes: tuple[int, ...]
    support: Tensor
    support_labels: Labels
    query: Tensor
    query_labels: Labels

    @property
    def way(self) -> int:
        return len(self.classes)


class Sampler(Protocol):
    """A frozen setting with a call: the task number `index` of `seed`, whatever came before."""

    def __call__(self, labels: Labels, *, index: int, seed: int, groups: Labels | None = None) -> Episode: ...


@dataclass(frozen=True, kw_only=True)
class FixedEpisodes:
    """`way` classes, `shot` support and `query` query images of each."""

    way: int = 5
    shot: int = 5
    query: int = 10

    def __post_init__(self) -> None:
        if self.way < 2 or self.shot < 1 or self.query < 1:
            raise BadConfigError(
                f"way {self.way}, shot {self.shot}, query {self.query}; expected 2 classes, 1 shot, 1 query or more"
            )

    def __call__(self, labels: Labels, *, index: int, seed: int, groups: Labels | None = None) -> Episode:
        """Images that share a value of `groups` (a track, a patient) never lie on both sides.

        Raises BadDataError where the set has too few classes, or a class too few images.
        """
        draws = generator(seed, index)
        known = torch.unique(labels)
        if len(known) < self.way:
            raise BadDataError(f"{self.way} classes a task asked for, {len(known)} are there; use a smaller way")
        chosen = known[torch.randperm(len(known), generator=draws)[: self.way]].tolist()
        sides = [_sides(labels, c, self.shot, self.query, draws, groups) for c in chosen]
        return _episode(chosen, sides)


@dataclass(frozen=True, kw_only=True)
class VariableEpisodes:
    """Variable way and shot, as Meta-Dataset draws them (Triantafillou et al. 2020, section 3) and PMF does.

    Way uniform in 5 to min(`most_way`, classes); query min(`query`, half of the smallest class) of each; support at most
    `most_support` in all and `most_per_class` of a class, classes in proportion to their size, up to a factor of 2.
    """

    least_way: int = 5
    most_way: int = 50
    query: int = 10
    most_support: int = 500
    most_per_class: int = 100

    def __call__(self, labels: Labels, *, index: int, seed: int, groups: Labels | None = None) -> Episode:
        """As `FixedEpisodes`. Raises BadDataError where there are fewer than `least_way` classes of 2 images or more."""
        draws = generator(seed, index)
        known, counts = torch.unique(labels, return_counts=True)
        known, counts = known[counts >= 2], counts[counts >= 2]
        if len(known) < self.least_way:
            raise BadDataError(
                f"{self.least_way} classes of 2 images a task asked for, {len(known)} are there; bring more classes"
            )
        most = min(self.most_way, len(known))
        way = int(torch.randint(self.least_way, most + 1, (1,), generator=draws))
        order = torch.randperm(len(known), generator=draws)[:way]
        sizes = counts[order].double()
        query = min(self.query, int(sizes.min()) // 2)
        left = sizes - query
        b = float(torch.rand(1, generator=draws))
        support = min(self.most_support, int((b * left.clamp_max(self.most_per_class)).floor().sum()) + way)
        tilt = (torch.rand(way, generator=draws).double() * 2 - 1) * log(2)
        shares = sizes * tilt.exp()
        shots = (shares / shares.sum() * (support - way)).floor() + 1
        chosen = known[order].tolist()
        sides = [
            _sides(labels, c, floor(min(float(s), float(most))), query, draws, groups)
            for c, s, most in zip(chosen, shots, left, strict=True)
        ]
        return _episode(chosen, sides)


def parse_setting(text: str, *, query: int) -> Sampler:
    """`5w1s` is 5-way 1-shot; `variable` draws both.

    >>> parse_setting("5w1s", query=10)
    FixedEpisodes(way=5, shot=1, query=10)

    Raises BadConfigError for anything else.
    """
    if text == "variable":
        return VariableEpisodes(query=query)
    match = re.fullmatch(r"([0-9]{1,9})w([0-9]{1,9})s", text)
    if match is None:
        raise BadConfigError(f"setting {shown(text)} cannot be read; expected WAYwSHOTs such as 5w1s, or variable")
    return FixedEpisodes(way=int(match[1]), shot=int(match[2]), query=query)


def _sides(
    labels: Labels, label: int, shot: int, query: int, draws: torch.Generator, groups: Labels | None
) -> tuple[Tensor, Tensor]:
    """Indices of `shot` support and `query` query images of one class."""
    own = (labels == label).nonzero().squeeze(1)
    if len(own) < shot + 1:
        raise BadDataError(
            f"class {label} has {len(own)} images; a task of {shot} shots needs {shot} and one to ask about at least"
        )
    if len(own) < shot + query:
        raise BadDataError(
            f"class {label} has {len(own)} images; a task of {shot} shots and {query} queries needs {shot + query}: ask "
            "for fewer"
        )
    own = own[torch.randperm(len(own), generator=draws)]
    if groups is None:
        return own[:shot], own[shot : shot + query]
    support = own[:shot]
    apart = own[shot:][~torch.isin(groups[own[shot:]], groups[support])]
    if len(apart) < query:
        raise BadDataError(
            f"class {label} has {len(apart)} images of other groups than its {shot} shots; {query} queries asked for"
        )
    return support, apart[:query]


def _episode(classes: Sequence[int], sides: Sequence[tuple[Tensor, Tensor]]) -> Episode:
    return Episode(
        classes=tuple(classes),
        support=torch.cat([support for support, _ in sides]),
        support_labels=torch.cat([torch.full((len(support),), i) for i, (support, _) in enumerate(sides)]),
        query=torch.cat([query for _, query in sides]),
        query_labels=torch.cat([torch.full((len(query),), i) for i, (_, query) in enumerate(sides)]),
    )
