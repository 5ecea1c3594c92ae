"""Pools: their folders (`pool/NAME` and `baselines/NAME`), and the feature extractors of their members, remembered."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor, nn

from loradar.adapters import (
    Adapter,
    AdapterPool,
    add_weighted,
    check_shared_start,
    feature_extractor,
    find_targets,
    load,
    merge_weights,
    target_share,
)
from loradar.core.errors import BadConfigError, BadFileError, BadTargetError
from loradar.core.files import parse_object, read_regular
from loradar.core.modules import unwrap
from loradar.core.names import ADAPTER_CONFIG, RUN
from loradar.core.remote import local_folder
from loradar.core.types import Images
from loradar.data import varied
from loradar.evaluation import device_of
from loradar.fewshot.chunks import in_chunks
from loradar.fewshot.heads import HeadKind
from loradar.fewshot.tasks import Domain
from loradar.models import (
    MultiStageFeatures,
    Pair,
    Precision,
    foldable_conv_bn,
    optimize_for_inference,
    skip_padding,
)

POOL, BASELINES = "pool", "baselines"
BASE, AVERAGE = "base", "average"
LEAST_SHARE = 0.5
"""Of the parameters below the head, in the layers that members change by default."""


def open_pool(folder: Path | str) -> AdapterPool:
    """Loads the members of a pool. Raises BadFileError where there is none, and WrongBaseError for members of several bases."""
    found = _adapters(local_folder(folder) / POOL)
    if not found:
        raise BadFileError(f"{folder} holds no pool; expected {POOL}/NAME/ as `loradar meta-tune` writes it")
    return AdapterPool(found)


def head_of_pool(pool: Mapping[str, Adapter] | None) -> HeadKind:
    """Returns the kind of head that a pool was tuned under, as its cards say; ridge without a pool."""
    kinds = {adapter.card.data.get("head") for adapter in (pool or {}).values()}
    return "centroid" if kinds == {"centroid"} else "ridge"


def open_baselines(folder: Path | str) -> dict[str, Adapter]:
    """Loads what was tuned beside a pool, by name; empty where nothing was."""
    return _adapters(local_folder(folder) / BASELINES)


def _adapters(folder: Path) -> dict[str, Adapter]:
    return {path.parent.name: load(path.parent) for path in sorted(folder.glob(f"*/{ADAPTER_CONFIG}"))}


def base_of(folder: Path | str) -> str:
    """Returns the spec of the base that a pool was tuned on. Raises BadFileError where the folder does not say."""
    try:
        return str(parse_object(read_regular(local_folder(folder) / RUN))["base"])
    except (OSError, ValueError, KeyError) as error:
        raise BadFileError(f"{folder} does not say which base its pool is for; give it with --base") from error


def targets_of(model: nn.Module, asked: Sequence[str]) -> tuple[str, ...]:
    """Returns the layers asked for; else attention and MLP, or all convolutions, if they are most of the model; else auto.

    Convolutions alone are little of a ConvNeXt, and of an MLP-Mixer or a small transformer its patch embedding.
    """
    if asked:
        return find_targets(model, asked)
    for preset in ("attention+mlp", "all-conv"):
        with suppress(BadTargetError):
            found = find_targets(model, preset)
            # one layer is no preset: the patch embedding of a small transformer
            if len(found) > 1 and target_share(model, found) >= LEAST_SHARE:
                return found
    return find_targets(model, "auto")


@dataclass(frozen=True, kw_only=True, eq=False)
class PoolModels:
    """A base, the pool on it if there is one, and all weights that do not depend on a task: `fixed` holds their feature
    extractors by name, the base and the members among them. `from_output`: the base's own output is the features.

    Members are attacked in `precision`, and scored on `n_augmentations` augmented copies of a support.
    """

    base: nn.Module
    pool: AdapterPool | None
    fixed: Mapping[str, nn.Module]
    features: nn.Module
    merge: tuple[Pair, ...]
    precision: Precision
    n_augmentations: int
    seed: int
    from_output: bool
    _optimized: dict[str, nn.Module] = field(default_factory=dict, init=False)

    @classmethod
    def of(
        cls,
        base: nn.Module,
        pool: AdapterPool | None,
        *,
        baselines: Mapping[str, Adapter] | None = None,
        precision: Precision = "auto",
        n_augmentations: int = 2,
        seed: int = 0,
        from_output: bool = False,
    ) -> "PoolModels":
        """Merges the weights of every member, and of the `baselines`, which then stand beside the members' average.

        Raises WrongBaseError for a pool of another base or of several starts, BadTargetError for a base whose classification
        layer cannot be told, unless its features are its output.
        """
        if n_augmentations < 1:
            raise BadConfigError(f"n_augmentations is {n_augmentations}; expected 1 or more")
        extractor = merge_weights(base, Adapter(), check=False) if from_output else feature_extractor(base)
        features = extractor.eval()
        device = device_of(features)
        if pool is not None:
            check_shared_start(pool)
            pool = AdapterPool({name: adapter.to(device) for name, adapter in pool.items()})
        adapters: dict[str, Adapter] = dict(pool or {})
        # checked once against the base with its head, which is what the members were made for
        for adapter in adapters.values():
            merge_weights(base, adapter)
        if pool is not None and baselines is not None:
            adapters[AVERAGE] = add_weighted(pool, {name: 1 / len(pool) for name in pool})
            adapters |= {name: adapter.to(device) for name, adapter in baselines.items()}
        fixed = {name: skip_padding(merge_weights(features, one, check=False)) for name, one in adapters.items()}
        return cls(
            base=base,
            pool=pool,
            fixed={BASE: skip_padding(merge_weights(features, Adapter(), check=False)), **fixed},
            features=features,
            merge=foldable_conv_bn(features),
            precision=precision,
            n_augmentations=n_augmentations,
            seed=seed,
            from_output=from_output,
        )

    @property
    def members(self) -> tuple[str, ...]:
        return tuple(self.pool or ())

    @property
    def as_pool(self) -> AdapterPool:
        """The members, and the base as one of them: no deltas, and whatever members replace as the base has it."""
        assert self.pool is not None, "a base alone has nothing to be blended with"
        card = next(iter(self.pool.values())).card
        own, replaced = unwrap(self.base).state_dict(), next(iter(self.pool.values())).modules_to_save
        base = Adapter(modules_to_save={name: own[name] for name in replaced}, card=card)
        return AdapterPool({BASE: base, **self.pool})

    @property
    def device(self) -> torch.device:
        return device_of(self.features)

    def optimized_fixed(self, name: str) -> nn.Module:
        """Returns the copy of fixed weights for attacking, which is made once."""
        if name not in self._optimized:
            self._optimized[name] = self.optimized(self.fixed[name])
        return self._optimized[name]

    def optimized(self, features: nn.Module) -> nn.Module:
        """Makes a copy for attacking, in the precision asked for."""
        return optimize_for_inference(features, self.precision, merge=self.merge)

    def with_adapter(self, adapter: Adapter) -> nn.Module:
        """Makes the feature extractor of the base with the weights of `adapter`, whose base was checked."""
        return skip_padding(merge_weights(self.features, adapter, check=False))

    @property
    def last(self) -> int | None:
        """How many of the features are the last layer's own, where the base shows those of several stages."""
        backbone = unwrap(self.base)
        return backbone.last if isinstance(backbone, MultiStageFeatures) else None


@torch.no_grad()
def features_of(model: nn.Module, x: Images) -> Tensor:
    """Computes float32 features (n, d) of images (n, c, h, w)."""
    return in_chunks(model, x.to(device_of(model))).float()


@dataclass(frozen=True, kw_only=True, eq=False)
class FeatureCache:
    """Features under fixed weights of images that `fetch` gives for indices: each image passes each model once."""

    models: PoolModels
    fetch: Callable[[Tensor], Images]
    batch_size: int = 128
    rows: dict[tuple[str, int, int], Tensor] = field(default_factory=dict)

    @classmethod
    def of_domain(cls, models: PoolModels, domain: Domain, batch_size: int) -> "FeatureCache":
        return cls(models=models, fetch=lambda indices: domain.images.fetch(indices)[0], batch_size=batch_size)

    def features(self, name: str, indices: Tensor, *, copy: int = 0) -> Tensor:
        """(len(indices), d) under the weights `name`; of the `copy`-th augmented copy, 0 being the image itself."""
        wanted = indices.tolist()
        missing = [i for i in dict.fromkeys(wanted) if (name, i, copy) not in self.rows]
        for start in range(0, len(missing), self.batch_size):
            part = missing[start : start + self.batch_size]
            x = self.fetch(torch.tensor(part))
            x = varied(x, self.models.seed + copy) if copy else x
            for index, row in zip(part, features_of(self.models.fixed[name], x), strict=True):
                self.rows[name, index, copy] = row
        return torch.stack([self.rows[name, i, copy] for i in wanted])
