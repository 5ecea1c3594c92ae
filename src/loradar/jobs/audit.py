"""Measures a base and any adapters of it against any attacks: nothing is trained."""

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from loradar.adapters import Adapter, fingerprint, load_named
from loradar.adapters.fits import check_base, check_fits
from loradar.attacks import named_attacks
from loradar.core.config import Effort
from loradar.core.leases import lease
from loradar.core.types import Attack, Progress
from loradar.data import Source, Splits, fetch_all, load_source, split
from loradar.evaluation import (
    AccuracyResult,
    check_classes,
    check_unseen,
    check_worst_cases,
    device_of,
    versions,
)
from loradar.evaluation import candidates as figures
from loradar.evaluation.candidates import Candidate, OnBench, ReportedImages
from loradar.evaluation.workbench import Workbench, open_bench
from loradar.evaluation.worst_case import WorstCase, worst_case
from loradar.jobs.bases import at_size, open_model, size_of, unseen_by
from loradar.jobs.config import AuditConfig
from loradar.models import Base
from loradar.report.files import write_report
from loradar.report.schema import BASE, Report, Size


@dataclass(frozen=True, kw_only=True, eq=False)
class AuditJob:
    """A base, adapters of it by name, and what they are measured with."""

    config: AuditConfig
    base: Base
    adapters: Mapping[str, Adapter]
    splits: Splits
    classes: tuple[str, ...]
    attacks: tuple[Attack, ...]


@dataclass(frozen=True, kw_only=True, eq=False)
class AuditResult:
    """The report, and the path of its page."""

    report: Report
    page: Path


def resolve(
    config: AuditConfig,
    *,
    base: Base | None = None,
    adapters: Mapping[str, Adapter] | None = None,
    source: Source | None = None,
    attacks: Mapping[str, Attack] | None = None,
) -> AuditJob:
    """Opens what `config` names and checks that it fits; nothing long is done and nothing is written.

    Objects in memory take the place of what `config` names. Raises LoradarError.
    """
    attacks = named_attacks(config.attacks) if attacks is None else attacks
    adapters = load_named(config.adapter) if adapters is None else adapters
    base = open_model(config.base, config.device) if base is None else base
    found = fingerprint(base.model)
    for adapter in adapters.values():
        check_base(adapter, found)
    base = at_size(base, config.size or size_of(adapters.values()))
    for adapter in adapters.values():
        check_fits(base.model, adapter.to(device_of(base.model)), hashed=False)
    if source is None:
        source = unseen_by(config.base, config.data, load_source(config.data, size=base.input_size[1:]))
    check_classes(base, source)
    splits = split(source, reported=config.max_test_images, seed=config.seed)
    for adapter in adapters.values():
        check_unseen(adapter.card, source, splits.record)
    return AuditJob(
        config=config,
        base=base,
        adapters=adapters,
        splits=splits,
        classes=tuple(base.classes or source.classes),
        attacks=tuple(attacks.values()),
    )


def run(job: AuditJob, *, progress: Progress | None = None) -> AuditResult:
    """Measures the base and every adapter, and writes report.json, report.md and report.html into the out folder."""
    with lease(job.config.out, wait=job.config.wait, progress=progress):
        report = measured(job, progress)
        return AuditResult(report=report, page=write_report(report, job.config.out))


def with_settings(job: AuditJob, config: AuditConfig) -> AuditJob:
    """The same objects under other settings."""
    return dataclasses.replace(job, config=config)


def measured(job: AuditJob, progress: Progress | None) -> Report:
    """The report of `job`; attacked images are kept in the cache, nothing else is written."""
    config = job.config
    bench = open_bench(job.base, config, progress)
    candidates = [Candidate(name=BASE, model=job.base.model)]
    candidates += [
        Candidate.with_adapter(job.base.model, adapter.to(bench.device), name=name)
        for name, adapter in job.adapters.items()
    ]
    x, y = fetch_all(job.splits.reported)
    reported = ReportedImages(x=x, y=y, seed=config.seed)
    rows, found = measure(bench, candidates, job.attacks, config.threat, reported, config.effort)
    shown = [
        picture
        for one in candidates[1:]
        for attack in job.attacks
        for threat in config.threat
        for picture in figures.pictures(bench, one, attack, threat, reported, job.classes)
    ]
    return Report(
        title="Audit",
        rows=tuple(rows),
        base=bench.describe(),
        data={name: value for name, value in job.splits.record.items() if name != "duplicates"},
        versions=versions(),
        settings=bench.settings(config),
        checks=check_worst_cases(found, rows),
        batteries=tuple(one.battery for one in found),
        sizes=tuple(_size(name, adapter) for name, adapter in job.adapters.items()),
        pictures=tuple(shown),
    )


def measure(
    bench: Workbench,
    candidates: Sequence[Candidate],
    attacks: Sequence[Attack],
    threats: Sequence[str],
    reported: ReportedImages,
    effort: Effort,
) -> tuple[list[AccuracyResult], list[WorstCase]]:
    """Every candidate clean, and under every attack in every threat model; and how the adaptive figures came about."""
    rows: list[AccuracyResult] = []
    found: list[WorstCase] = []
    targets = {one.name: OnBench(bench=bench, one=one) for one in candidates}
    for one in candidates:
        rows.append(figures.clean_row(bench, one, reported))
        if "transfer" in threats:
            rows += [figures.transfer_row(bench, one, attack, reported) for attack in attacks]
        if "adaptive" in threats:
            others = [target for name, target in targets.items() if name != one.name]
            figure = partial(
                worst_case, targets[one.name], others=others, effort=effort, seed=reported.seed, probed=True
            )
            own = [figure(attack, reported.x, reported.y) for attack in attacks]
            rows += [each.row for each in own]
            found += own
    return rows, found


def _size(name: str, adapter: Adapter) -> Size:
    tensors = list(adapter.state().values())
    return Size(
        model=name,
        bytes=sum(tensor.numel() * tensor.element_size() for tensor in tensors),
        parameters=sum(tensor.numel() for tensor in tensors),
    )
