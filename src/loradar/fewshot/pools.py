"""A pool's folder, `pool/NAME` and `baselines/NAME`: its layers, its base, and how its members are to be blended."""

import json
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import nn

from loradar.adapters import AdapterPool, check_shared_start, find_targets, load
from loradar.attacks import PGD
from loradar.core.errors import BadFileError, BadTargetError
from loradar.core.names import ADAPTER_CONFIG, RUN
from loradar.core.types import Images, Labels
from loradar.data import varied
from loradar.fewshot.blending import Blending
from loradar.fewshot.config import BlendConfig
from loradar.fewshot.heads import Centroids, TaskClassifier
from loradar.fewshot.prototypes import prototypes_of

POOL, BASELINES = "pool", "baselines"
SCORED_UNDER = PGD(eps=4 / 255, step_size=2 / 255, steps=2)
"""What the copies of a support are attacked with where members are scored by it. Where it fools no member, the score says
nothing: small supports of easy tasks."""
_AT_ONCE = 128


def open_pool(folder: Path) -> AdapterPool:
    """The members of a pool that share one start. Raises BadFileError where there is none, and WrongBaseError."""
    found = sorted(path.parent for path in (folder / POOL).glob(f"*/{ADAPTER_CONFIG}"))
    if not found:
        raise BadFileError(f"{folder} holds no pool; expected {POOL}/NAME/ as `loradar meta-tune` writes it")
    pool = AdapterPool({path.name: load(path) for path in found})
    check_shared_start(pool)
    return pool


def base_of(folder: Path) -> str:
    """The base that a pool was tuned on, as it was named then. Raises BadFileError where the folder does not say."""
    try:
        return str(json.loads((folder / RUN).read_text())["base"])
    except (OSError, ValueError, KeyError) as error:
        raise BadFileError(f"{folder} does not say which base its pool is for; give it with --base") from error


def blending_of(config: BlendConfig) -> Blending:
    """How `config` wants members scored and weighed."""
    return Blending(by=config.score, compactness=config.compactness, beta=config.beta, top=config.top)


def copies_of(support: Images, count: int, seed: int) -> Images:
    """`count` augmented copies of the support, one whole copy after the other: what members are scored on."""
    return torch.cat([varied(support, seed + 1 + i) for i in range(count)])


def attacked_score(
    blending: Blending, member: nn.Module, support: Images, copies: Images, labels: Labels, way: int
) -> float:
    """The score of one member, frozen features, on augmented `copies` of the support that are attacked through it."""
    with torch.no_grad():
        clean = member(support).float()
    prototypes = prototypes_of(clean, labels, way)
    repeated = labels.repeat(len(copies) // len(labels))
    classifier = TaskClassifier(member, Centroids(prototypes))
    features = []
    for x, y in zip(torch.split(copies, _AT_ONCE), torch.split(repeated, _AT_ONCE), strict=True):
        with torch.enable_grad():
            attacked = SCORED_UNDER(classifier, x, y)
        with torch.no_grad():
            features.append(member(attacked).float())
    return blending.score(torch.cat(features), repeated, prototypes)


def targets_of(model: nn.Module, asked: Sequence[str]) -> tuple[str, ...]:
    """What was asked for; else attention and MLP of a transformer, else every convolution."""
    if asked:
        return find_targets(model, asked)
    try:
        return find_targets(model, "attention+mlp")
    except BadTargetError:
        return find_targets(model, "all-conv")
