"""Measures a base and any adapters of it against any attacks: nothing is trained."""

from collections.abc import Sequence
from pathlib import Path

from loradar.adapters import load
from loradar.attacks import named_attacks
from loradar.core.errors import BadConfigError
from loradar.core.files import make_folder
from loradar.core.names import ADAPTER_WEIGHTS
from loradar.core.types import Attack, Progress
from loradar.data import load_source, split
from loradar.evaluation import AccuracyResult, check_classes, check_transfer, check_unseen, everything, versions
from loradar.evaluation import candidates as figures
from loradar.evaluation.candidates import Candidate, ReportedImages
from loradar.evaluation.workbench import Workbench, open_bench
from loradar.jobs.config import AuditConfig
from loradar.models import open_base
from loradar.report.files import write_report
from loradar.report.schema import BASE, Report, Size


def audit(config: AuditConfig, *, progress: Progress | None = None) -> Path:
    """Measures, writes report.json, report.md and report.html into `config.out`; returns the page's path.

    Adapters are checked against the base before anything is computed. Raises LoradarError.
    """
    attacks = list(named_attacks(config.attacks).values())
    base = open_base(config.base, config.device)
    adapters = [load(folder) for folder in config.adapter]
    bench = open_bench(base, config, progress)
    candidates = [Candidate(name=BASE, model=base.model)]
    for folder, adapter in zip(config.adapter, adapters, strict=True):
        name = adapter.card.name
        if name in {one.name for one in candidates}:
            raise BadConfigError(f"two adapters are called {name!r}, one of them in {folder}; audit them one by one")
        candidates.append(Candidate.with_adapter(base.model, adapter.to(bench.device), name=name))
    source = load_source(config.data, size=base.input_size[1:])
    check_classes(base, source)
    make_folder(config.out)
    splits = split(source, reported=config.max_test_images, seed=config.seed)
    for adapter in adapters:
        check_unseen(adapter.card, source, splits.record)
    x, y = everything(splits.reported)
    reported = ReportedImages(x=x, y=y, seed=config.seed)
    rows = measure(bench, candidates, attacks, config.threat, reported)
    names = base.classes or source.classes
    shown = [
        picture
        for one in candidates[1:]
        for attack in attacks
        for threat in config.threat
        for picture in figures.pictures(bench, one, attack, threat, reported, names)
    ]
    report = Report(
        title="Audit",
        rows=tuple(rows),
        base=bench.describe(),
        data={name: value for name, value in splits.record.items() if name != "duplicates"},
        versions=versions(),
        settings=bench.settings(config),
        checks=check_transfer(rows),
        sizes=tuple(_size(folder) for folder in config.adapter),
        pictures=tuple(shown),
    )
    return write_report(report, config.out)


def measure(
    bench: Workbench,
    candidates: Sequence[Candidate],
    attacks: Sequence[Attack],
    threats: Sequence[str],
    reported: ReportedImages,
) -> list[AccuracyResult]:
    """Every candidate clean, and under every attack in every threat model."""
    rows = []
    for one in candidates:
        rows.append(figures.clean_row(bench, one, reported))
        if "transfer" in threats:
            rows += [figures.transfer_row(bench, one, attack, reported) for attack in attacks]
        if "adaptive" in threats:
            rows += [figures.adaptive_row(bench, one, attack, reported) for attack in attacks]
    return rows


def _size(folder: Path) -> Size:
    adapter = load(folder)
    file = folder / ADAPTER_WEIGHTS
    parameters = sum(tensor.numel() for tensor in adapter.state().values())
    return Size(model=adapter.card.name, bytes=file.stat().st_size, parameters=parameters)
