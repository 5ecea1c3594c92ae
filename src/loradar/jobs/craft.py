"""Crafts attacked images of a base in shards, on one machine or many, and merges them by content."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import safetensors.torch
import torch

from loradar.attacks import named_attacks
from loradar.core.errors import BadConfigError
from loradar.core.files import write_atomically
from loradar.core.leases import lease
from loradar.core.names import check_names
from loradar.core.timing import timed
from loradar.core.types import Attack, Images, Labels, Progress
from loradar.data import ImageSet, Source, fetch_all, load_source, split
from loradar.evaluation import check_classes
from loradar.evaluation.workbench import Workbench, open_bench
from loradar.jobs.bases import at_size
from loradar.jobs.config import CraftConfig
from loradar.models import Base, open_base

_TIMED = 8


@dataclass(frozen=True, kw_only=True, eq=False)
class CraftJob:
    """A base, the images to attack, and the attacks by name."""

    config: CraftConfig
    base: Base
    images: ImageSet
    attacks: Mapping[str, Attack]


@dataclass(frozen=True, kw_only=True, eq=False)
class CraftResult:
    """The attacked images (n, C, H, W) of each attack, by its name, their labels, and the files that hold both."""

    images: Mapping[str, Images]
    labels: Labels
    files: Mapping[str, Path]


def resolve(config: CraftConfig, *, base: Base | None = None, source: Source | None = None) -> CraftJob:
    """Opens what `config` names; nothing is crafted or written. Raises LoradarError."""
    attacks = named_attacks(config.attacks)
    check_names(attacks, "an attack")
    for name, attack in attacks.items():
        if not attack.traits.cacheable:
            raise BadConfigError(f"{name} cannot be crafted in pieces: its setting does not tell everything about it")
    base = at_size(open_base(config.base, config.device) if base is None else base, config.size)
    source = load_source(config.data, size=base.input_size[1:]) if source is None else source
    check_classes(base, source)
    splits = split(
        source, train=config.train, validation=config.validation, reported=config.max_test_images, seed=config.seed
    )
    return CraftJob(config=config, base=base, images=getattr(splits, config.split), attacks=attacks)


def parts(config: CraftConfig) -> dict[str, tuple[str, ...]]:
    """What may be done apart before `run`, and by several machines: each shard of the images, under every attack."""
    return {f"{shard}/{config.shards}": () for shard in range(config.shards)} if config.shards > 1 else {}


def estimate(job: CraftJob) -> dict[str, float]:
    """Seconds of each of the `parts` (of all of it without parts), from a few timed images; nothing is there already."""
    bench, few = open_bench(job.base, job.config, None), torch.arange(min(_TIMED, len(job.images)))
    x, y = (tensor.to(bench.device) for tensor in job.images.fetch(few))
    each = 0.0
    for attack in job.attacks.values():
        model = bench.optimized(job.base.model, attack)
        each += timed(partial(attack, model, x, y)) / len(few)
    names = parts(job.config) or {"": ()}
    return {name: each * len(job.images) / len(names) for name in names}


def run_part(job: CraftJob, name: str, progress: Progress | None = None) -> None:
    """Crafts the shard `name` of `parts` into the cache, where `run` finds it. Raises BadConfigError for no shard."""
    bench = open_bench(job.base, job.config, progress)
    rows = rows_of(name, len(job.images), job.config.batch_size)
    if not len(rows):  # more shards than batches
        return
    for attack_name, attack in job.attacks.items():
        x, y = job.images.fetch(rows)
        with lease(
            job.config.out / "work" / f"{attack_name}-{name.replace('/', '-of-')}", wait=True, progress=progress
        ):
            bench.attacked(attack, job.base.model, x, y, name=f"craft {attack_name}, shard {name}")


def run(job: CraftJob, *, progress: Progress | None = None) -> CraftResult:
    """Crafts what the cache does not hold, and writes `NAME.safetensors` (`images`, float32, and `labels`) for each attack."""
    config = job.config
    if config.shard is not None:
        run_part(job, config.shard, progress)
        return CraftResult(images={}, labels=torch.empty(0, dtype=torch.int64), files={})
    with lease(config.out, wait=config.wait, progress=progress):
        bench = open_bench(job.base, config, progress)
        x, y = fetch_all(job.images)
        images = {name: _crafted(job, bench, name, x, y) for name in job.attacks}
        files = {name: config.out / f"{name}.safetensors" for name in images}
        for name, path in files.items():
            write_atomically(path, safetensors.torch.save({"images": images[name], "labels": y}))
    return CraftResult(images=images, labels=y, files=files)


def _crafted(job: CraftJob, bench: Workbench, name: str, x: Images, y: Labels) -> Images:
    return bench.attacked(
        job.attacks[name], job.base.model, x, y, name=f"craft {name}, {len(y)} {job.config.split} images"
    )


def rows_of(shard: str, count: int, batch_size: int) -> torch.Tensor:
    """The images (indices) of a shard such as "0/8": whole batches, so that each is crafted among the same others as without
    shards.

    >>> rows_of("1/2", 10, 4)
    tensor([4, 5, 6, 7, 8, 9])
    """
    number, shards = (int(part) for part in shard.split("/"))
    if not number < shards:
        known = f"0/{shards} to {shards - 1}/{shards}" if shards else "0/8 to 7/8, for example"
        raise BadConfigError(f"shard is {shard}; expected one of {known}")
    batches = -(-count // batch_size)
    first, last = (batches * each // shards for each in (number, number + 1))
    return torch.arange(first * batch_size, min(last * batch_size, count))
