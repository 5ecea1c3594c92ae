"""Several adapters of one base, by name; and a weighted sum of them, which is an adapter again."""

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

import torch
from torch import Tensor

from loradar.adapters.adapter import Adapter, keep
from loradar.adapters.card import Card
from loradar.adapters.delta import Delta, check_low_rank, stacked
from loradar.adapters.files import load
from loradar.core.errors import BadConfigError, WrongBaseError, did_you_mean


class AdapterPool(Mapping[str, Adapter]):
    """Named adapters of one base. Raises WrongBaseError where their bases differ."""

    def __init__(self, adapters: Mapping[str, Adapter]) -> None:
        if not adapters:
            raise BadConfigError("a pool needs an adapter at least; it was given none")
        self._adapters = dict(adapters)
        first, *others = self._adapters
        self.base_fingerprint = self._adapters[first].card.base_fingerprint
        for name in others:
            found = self._adapters[name].card.base_fingerprint
            if found != self.base_fingerprint:
                raise WrongBaseError(
                    f"{name!r} belongs to the base {found[:12] or 'unknown'}, {first!r} to "
                    f"{self.base_fingerprint[:12] or 'unknown'}; a pool has one base"
                )

    def __getitem__(self, name: str) -> Adapter:
        return self._adapters[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._adapters)

    def __len__(self) -> int:
        return len(self._adapters)

    def __repr__(self) -> str:
        return f"AdapterPool({', '.join(map(repr, self._adapters))})"


def load_named(folders: Iterable[Path]) -> dict[str, Adapter]:
    """Loads adapters, by the name on each card. Raises BadConfigError where a name is taken: by another, or the base."""
    adapters: dict[str, Adapter] = {}
    for folder in folders:
        adapter = load(folder)
        name = adapter.card.name
        if name in ("base", *adapters):
            raise BadConfigError(f"two models are called {name!r}, one of them in {folder}; expected a name for each")
        adapters[name] = adapter
    return adapters


def add_weighted(pool: AdapterPool, weights: Mapping[str, float], *, name: str = "merged") -> Adapter:
    """The adapter whose deltas are the weighted sums of the pool's: exact, the ranks add up.

    Where all have the same SVD start, its frozen part is taken once: with weights that sum to 1 the merged weight is
    W_res + sum of weight_i B_i A_i (see `truncated` for a smaller rank, `truncate_spectrum` for fewer singular values).
    Names that `weights` leaves out, or gives 0, take no part; one name with weight 1 is that adapter itself. What
    adapters replace (heads, statistics) is averaged with the weights, which then must sum to 1, and which all of them
    must replace: a base's own head is not known here. Raises BadConfigError otherwise.
    """
    for unknown in set(weights) - set(pool):
        raise BadConfigError(f"the pool has no adapter {unknown!r}; {did_you_mean(unknown, pool)}")
    used = {n: float(w) for n, w in weights.items() if w != 0}
    if not used or not all(torch.isfinite(torch.tensor(w)) for w in used.values()):
        raise BadConfigError(f"weights are {dict(weights)}; expected finite numbers, one of them not 0")
    if list(used.values()) == [1.0]:
        return pool[next(iter(used))]
    deltas = {layer: _sum(layer, pool, used) for layer in dict.fromkeys(k for n in used for k in pool[n].deltas)}
    modules_to_save = _average(pool, used)
    cards = [pool[n].card for n in used]
    card = Card(
        name=name,
        base_fingerprint=pool.base_fingerprint,
        target_modules=tuple(deltas),
        init="merged",
        head=cards[0].head,
        modules_to_save=cards[0].modules_to_save,
        norm=cards[0].norm,
        data={"merged": used},
    )
    return Adapter(deltas=deltas, modules_to_save=modules_to_save, card=card)


def _sum(layer: str, pool: AdapterPool, weights: Mapping[str, float]) -> Delta:
    parts = [(pool[n].deltas[layer], w) for n, w in weights.items() if layer in pool[n].deltas]
    first = parts[0][0]
    for part, _ in parts:
        check_low_rank(part, layer)
    if any((part.shape, part.groups) != (first.shape, first.groups) for part, _ in parts):
        raise WrongBaseError(f"the adapters' shapes for {layer} differ: {[part.shape for part, _ in parts]}")
    # [w1 s1 B1, w2 s2 B2] @ [A1; A2] is the sum itself; summing A's and B's apart would add the cross terms
    factors = [(part.a, part.b * (weight * part.scale)) for part, weight in parts]
    starts = [(part.init_factors, weight * part.scale) for part, weight in parts if part.init_factors is not None]
    if len(starts) == len(parts) and all(_same(init_factors, starts[0][0]) for init_factors, _ in starts):
        starts = [(starts[0][0], sum(weight for _, weight in starts))]
    factors += [(a0, b0 * -weight) for (a0, b0), weight in starts]
    branch_equivalent = all(part.branch_equivalent for part, _ in parts)
    return stacked(factors, shape=first.shape, branch_equivalent=branch_equivalent, groups=first.groups)


def _same(one: tuple[Tensor, Tensor], other: tuple[Tensor, Tensor]) -> bool:
    return all(x is y or torch.equal(x, y) for x, y in zip(one, other, strict=True))


def check_shared_start(pool: AdapterPool) -> None:
    """Raises WrongBaseError unless all members put their deltas on the same layers over one residual weight W_res."""
    first, *others = pool
    for name in others:
        one, other = pool[first].deltas, pool[name].deltas
        if odd := set(one) ^ set(other):
            raise WrongBaseError(f"{name!r} and {first!r} differ in their layers: {min(odd)} is in one of them alone")
        for layer, delta in one.items():
            init_factors = other[layer].init_factors
            if (delta.init_factors is None) != (init_factors is None) or (
                delta.init_factors and init_factors and not _same(delta.init_factors, init_factors)
            ):
                raise WrongBaseError(
                    f"{name!r} and {first!r} have different residual weights for {layer}; expected members of one "
                    "meta-tuning, which share their start"
                )


def _average(pool: AdapterPool, weights: Mapping[str, float]) -> dict[str, Tensor]:
    names = dict.fromkeys(key for n in weights for key in pool[n].modules_to_save)
    for key in names:
        if lacking := [n for n in weights if key not in pool[n].modules_to_save]:
            raise BadConfigError(f"{lacking[0]!r} does not replace {key}, the others do; merge adapters of one kind")
    if names and abs(sum(weights.values()) - 1) > 1e-6:
        raise BadConfigError(
            f"weights sum to {sum(weights.values()):g}; expected 1, for {next(iter(names))} is averaged"
        )
    averaged = {}
    for key in names:
        tensors = [(pool[n].modules_to_save[key].detach(), w) for n, w in weights.items()]
        mean = sum((t.double() * w for t, w in tensors), torch.zeros_like(tensors[0][0], dtype=torch.float64))
        first = pool[next(iter(weights))].modules_to_save[key]
        value = mean if first.is_floating_point() else mean.round()
        averaged[key] = keep(key, value.to(first.dtype), trainable=first.requires_grad)
    return averaged
