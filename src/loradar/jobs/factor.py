"""A tuned model factored into an adapter's folder, and what that costs on clean images."""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from loradar.adapters import Factored, factor, merge_weights, save
from loradar.core.files import check_place
from loradar.core.names import ADAPTER_CONFIG, ADAPTER_WEIGHTS
from loradar.data import ImageSet, fetch_all, load_source, split
from loradar.evaluation import AccuracyResult, accuracy_row, check_classes
from loradar.models import Base, open_base


@dataclass(frozen=True, kw_only=True, eq=False)
class FactorJob:
    """A base, a tuned model of the same architecture, where its adapter goes, and images to measure on, if any."""

    base: Base
    tuned: Base
    out: Path
    rank: str | None
    max_bytes: str | None
    reported: ImageSet | None


@dataclass(frozen=True, kw_only=True, eq=False)
class FactorResult:
    """The adapter with its errors, the bytes of its weights on disk, and clean rows of base, tuned model and adapter."""

    factored: Factored
    bytes: int
    rows: Sequence[AccuracyResult]


def resolve(
    base: str, tuned: str, *, out: Path, rank: str | None = None, max_bytes: str | None = None, data: str | None = None
) -> FactorJob:
    """Opens both models and the images. Raises LoradarError."""
    check_place(out, ADAPTER_CONFIG, "an adapter")
    opened, other = open_base(base, "auto"), open_base(tuned, "auto")
    reported = None
    if data is not None:
        source = load_source(data, size=opened.input_size[1:])
        check_classes(opened, source)
        reported = split(source).reported
    return FactorJob(base=opened, tuned=other, out=out, rank=rank, max_bytes=max_bytes, reported=reported)


def run(job: FactorJob) -> FactorResult:
    """Factors, writes the adapter and measures. Raises LoradarError."""
    base, tuned = job.base.model, job.tuned.model
    found = factor(base, tuned, rank=job.rank, max_bytes=job.max_bytes, name=job.out.name)
    data = {**found.adapter.card.data, "input_size": list(job.base.input_size)}
    adapter = found.adapter.with_card(data=data)
    rows: list[AccuracyResult] = []
    if job.reported is not None:
        x, y = fetch_all(job.reported)
        models = {"base": base, "tuned": tuned, "adapter": merge_weights(base, adapter)}
        rows = [accuracy_row(model, x, y, name=name) for name, model in models.items()]
        adapter = adapter.with_card(measured=[dataclasses.asdict(rows[-1])])
    save(adapter, job.out, base)
    size = (job.out / ADAPTER_WEIGHTS).stat().st_size
    return FactorResult(factored=dataclasses.replace(found, adapter=adapter), bytes=size, rows=rows)
