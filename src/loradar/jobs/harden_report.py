"""The report of a hardening run: every figure of the base and of the adapters, and what they need to be believed."""

from collections.abc import Sequence
from pathlib import Path

import torch

from loradar.adapters import Adapter, load, plug
from loradar.core.modules import evaluating
from loradar.core.names import ADAPTER_WEIGHTS
from loradar.core.types import Attack
from loradar.data import Splits
from loradar.evaluation import (
    AccuracyResult,
    Check,
    LabelLeakResult,
    Picture,
    check_worst_cases,
    versions,
)
from loradar.evaluation import candidates as figures
from loradar.evaluation.candidates import Candidate, ReportedImages
from loradar.evaluation.workbench import Workbench
from loradar.jobs.measuring import Measuring
from loradar.jobs.train_adapter import Trained
from loradar.report.schema import BASE, Curve, Point, ReloadCheck, Report, Size, Training

CRITERION = "most right answers on the validation split; clean ones weighed by clean_weight against attacked ones"
LEAK_IMAGES = 500
MASKING_IMAGES = 100


def report_of(measuring: Measuring, trained: Sequence[Trained], splits: Splits, classes: Sequence[str]) -> Report:
    """Measures the base and every adapter, selected and last epoch, and says what was found."""
    bench, config, base = measuring.bench, measuring.config, measuring.bench.base.model
    candidates = [
        Candidate.with_adapter(base, _on_device(bench, one.selected.folder), name=one.member.model) for one in trained
    ]
    undefended = Candidate(name=BASE, model=base)
    adapted = [candidate for candidate, one in zip(candidates, trained, strict=True) if one.member.kind == "adapter"]
    crafted_on = [undefended, *adapted]
    figured = measuring.worst_cases(undefended, None, adapted)
    rows = [*measuring.rows(undefended, None), *(each.row for each in figured)]
    last: list[AccuracyResult] = []
    leaks: list[LabelLeakResult] = []
    checks: list[Check] = []
    pictures: list[Picture] = []
    replugged: list[ReloadCheck] = []
    for one, candidate in zip(trained, candidates, strict=True):
        attack = one.member.attack
        own = measuring.worst_cases(candidate, one.member, [each for each in crafted_on if each is not candidate])
        rows += [*measuring.rows(candidate, one.member), *(each.row for each in own)]
        figured += own
        final = Candidate.with_adapter(base, _on_device(bench, one.last.folder), name=one.member.model)
        last += measuring.last_rows(final, one.member)
        replugged.append(_replug(bench, one, attack, measuring.reported))
        if one.member.kind == "adapter":
            leaks.append(figures.leak(bench, candidate, attack, measuring.reported.first(LEAK_IMAGES)))
            checks += figures.masking(bench, candidate, measuring.reported.first(MASKING_IMAGES))
            pictures += measuring.pictures(candidate, one.member, classes)
    checks += check_worst_cases(figured, rows)
    return Report(
        title="Hardening report",
        rows=tuple(rows),
        base=bench.describe(),
        data=dict(splits.record),
        versions=versions(),
        settings=bench.settings(config),
        checks=tuple(checks),
        batteries=tuple(each.battery for each in figured),
        leaks=tuple(leaks),
        baselines=tuple(dict.fromkeys(one.member.model for one in trained if one.member.kind != "adapter")),
        sizes=(_base_size(bench), *(_size(one) for one in trained)),
        pictures=tuple(pictures),
        training=Training(
            curves=tuple(_curve(one) for one in trained), reload_checks=tuple(replugged), last_epoch=tuple(last)
        ),
    )


def _on_device(bench: Workbench, folder: Path) -> Adapter:
    return load(folder).to(bench.device)


def _replug(bench: Workbench, one: Trained, attack: Attack, reported: ReportedImages) -> ReloadCheck:
    """The adapter that training left in memory beside what its last save gives, plugged into the base again."""
    base = bench.base.model
    x = torch.cat([reported.x, figures.transferred(bench, attack, reported)])
    memory, again = plug(base, one.in_memory), plug(base, _on_device(bench, one.last.folder))
    differing, largest = 0, 0.0
    with evaluating(memory), evaluating(again), torch.inference_mode():
        for batch in torch.split(x, bench.batch_size):
            before, after = memory(batch.to(bench.device)), again(batch.to(bench.device))
            differing += int((before.argmax(1) != after.argmax(1)).sum())
            largest = max(largest, float((before - after).abs().max()))
    return ReloadCheck(model=one.member.name, differing=differing, largest=largest, total=2 * len(reported.y))


def _curve(one: Trained) -> Curve:
    points = (
        Point(epoch=e.epoch + 1, loss=e.loss, clean=int(e.clean), adversarial=int(e.adversarial or 0), total=e.total)
        for e in one.epochs
    )
    return Curve(model=one.member.name, points=tuple(points), selected=one.selected.epoch + 1, criterion=CRITERION)


def _size(one: Trained) -> Size:
    tensors = one.in_memory.state().values()
    file = one.last.folder / ADAPTER_WEIGHTS
    return Size(model=one.member.name, bytes=file.stat().st_size, parameters=sum(t.numel() for t in tensors))


def _base_size(bench: Workbench) -> Size:
    tensors = bench.base.model.state_dict().values()
    return Size(
        model=BASE,
        bytes=sum(t.numel() * t.element_size() for t in tensors),
        parameters=sum(t.numel() for t in tensors),
    )
