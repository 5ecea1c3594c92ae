"""The main job: one adapter per attack on a frozen base, each measured, and a report of what it buys."""

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from loradar.adapters import Adapter, init_adapter, load, plug, save
from loradar.attacks import named_attacks
from loradar.core.config import check_run_settings
from loradar.core.errors import BadConfigError, did_you_mean
from loradar.core.leases import lease
from loradar.core.modules import evaluating
from loradar.core.names import ADAPTER_WEIGHTS, BASE_CONFIG
from loradar.core.types import Attack, Progress
from loradar.data import Source, Splits, fetch_all, load_source, split
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
from loradar.evaluation.workbench import Workbench, open_bench
from loradar.jobs.bases import at_size, needs_other_head, with_head
from loradar.jobs.config import HardenConfig
from loradar.jobs.estimate import in_words, seconds_of_harden
from loradar.jobs.measuring import Measuring
from loradar.jobs.members import BASELINES, Member, plan
from loradar.jobs.train_adapter import Trained, fit_settings, train_adapter
from loradar.models import Base, open_base, save_base
from loradar.report.files import write_report
from loradar.report.schema import BASE, Curve, Point, ReloadCheck, Report, Size, Training

CRITERION = "most right answers on the validation split; clean ones weighed by clean_weight against attacked ones"
LEAK_IMAGES = 500
MASKING_IMAGES = 100


@dataclass(frozen=True, kw_only=True, eq=False)
class HardenJob:
    """A base, its images, and every adapter to train, ready to run."""

    config: HardenConfig
    base: Base
    splits: Splits
    classes: tuple[str, ...]
    members: tuple[Member, ...]
    transfer: Mapping[str, Attack]
    adaptive: Mapping[str, Attack]
    other_head: bool = False


@dataclass(frozen=True, kw_only=True, eq=False)
class HardenResult(Mapping[str, Adapter]):
    """Adapters by name, the report, and the path of its page. Baselines are in the report and the out folder alone."""

    adapters: Mapping[str, Adapter]
    report: Report
    page: Path

    def __getitem__(self, name: str) -> Adapter:
        if name not in self.adapters:
            raise KeyError(f"no adapter {name!r}; {did_you_mean(name, self.adapters)}")
        return self.adapters[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.adapters)

    def __len__(self) -> int:
        return len(self.adapters)

    def save(self, folder: Path | str) -> Path:
        """Writes `adapters/NAME/` and the report into `folder`; returns the path of the report's page."""
        for name, adapter in self.adapters.items():
            save(adapter, Path(folder) / "adapters" / name)
        return write_report(self.report, folder)


def resolve(
    config: HardenConfig,
    *,
    base: Base | None = None,
    source: Source | None = None,
    attacks: Mapping[str, Attack] | None = None,
) -> HardenJob:
    """Opens what `config` names and checks that it fits; nothing long is done and nothing is written.

    `base`, `source` and `attacks` in memory take the place of what `config` names. Raises LoradarError.
    """
    members = plan(config, attacks)
    transfer, adaptive = (
        attacks if specs is None and attacks is not None else named_attacks(specs or config.attacks)
        for specs in (config.transfer_attacks, config.adaptive_attacks)
    )
    base = at_size(open_base(config.base, config.device) if base is None else base, config.size)
    source = load_source(config.data, size=base.input_size[1:]) if source is None else source
    other_head = needs_other_head(base, source, config.head)
    check_training(base, config, other_head=other_head)
    splits = split(
        source, train=config.train, validation=config.validation, reported=config.max_test_images, seed=config.seed
    )
    classes = source.classes if other_head else tuple(base.classes or source.classes)
    return HardenJob(
        config=config,
        base=base,
        splits=splits,
        classes=classes,
        members=members,
        transfer=transfer,
        adaptive=adaptive,
        other_head=other_head,
    )


def check_training(base: Base, config: HardenConfig, *, other_head: bool) -> None:
    """Raises BadTargetError or BadConfigError for layers, a rank or an objective that do not fit, before anything long."""
    if config.objective != "mixed" and config.clean_weight == 0:
        raise BadConfigError(f"objective {config.objective} compares with clean images; expected clean_weight above 0")
    fit_settings(config)
    init_adapter(base.model, target_modules=config.target_modules, rank=config.rank or 1, lora_alpha=config.lora_alpha)
    if config.max_bytes is not None:  # of a head that is yet to be made, no size is known
        init_adapter(
            base.model,
            target_modules=config.target_modules,
            max_bytes=config.max_bytes,
            init=config.init,
            head=not other_head,
            norm=config.norm,
        )


def parts(config: HardenConfig) -> dict[str, tuple[str, ...]]:
    """What may be done apart before `run`, and by several machines: every training. None waits for another."""
    return {one.name: () for one in plan(config)}


def run_part(job: HardenJob, name: str, progress: Progress | None = None) -> None:
    """Does the training `name` of `parts`; `run` then finds it finished."""
    check_run_settings(job.config, "effort")
    base = base_of(job, progress)
    bench = open_bench(base, job.config, progress)
    _trained(next(one for one in job.members if one.name == name), bench, job)


def run(job: HardenJob, *, progress: Progress | None = None) -> HardenResult:
    """Trains and measures every adapter of `job`.

    The out folder receives `adapters/NAME/` (the selected epoch of each), `report.json`, `report.md`, `report.html`, and
    `work/` with every epoch. A run that was killed continues there and ends with the same bits.
    """
    with lease(job.config.out, wait=job.config.wait, progress=progress):
        return _train_and_measure(job, progress)


def _train_and_measure(job: HardenJob, progress: Progress | None) -> HardenResult:
    config = job.config
    check_run_settings(config, "effort")  # the same trainings may be measured anew
    base = base_of(job, progress)
    bench = open_bench(base, config, progress)
    _say_how_long(job, bench)
    trained = [_trained(one, bench, job) for one in job.members]
    x, y = fetch_all(job.splits.reported)
    measuring = Measuring(
        bench=bench,
        config=config,
        transfer=job.transfer,
        adaptive=job.adaptive,
        reported=ReportedImages(x=x, y=y, seed=config.seed),
    )
    report = _report(measuring, trained, job.splits, job.classes)
    adapters = {}
    for one in trained:
        own = (one.member.model, one.member.attack.spec)
        rows = [dataclasses.asdict(r) for r in report.rows if (r.model, r.trained_against) == own]
        card = {"measured": rows, "selected_epoch": one.selected.epoch}
        adapter = load(one.selected.folder).with_card(**card)
        save(adapter, config.out / "adapters" / one.member.name)
        if one.member.kind not in BASELINES:
            adapters[one.member.name] = adapter
    return HardenResult(adapters=adapters, report=report, page=write_report(report, config.out))


def _trained(member: Member, bench: Workbench, job: HardenJob) -> Trained:
    folder = job.config.out / "work" / member.name
    with lease(folder, wait=job.config.wait, progress=bench.progress):
        return train_adapter(member, bench, job.splits, job.config, folder)


def base_of(job: HardenJob, progress: Progress | None) -> Base:
    """The base of `job`; where the data need another head, the base with one, kept in the out folder as `base`."""
    if not job.other_head:
        return job.base
    folder = job.config.out / "base"
    with lease(folder, wait=True, progress=progress, beside=True):  # parts of a run may want it at one time
        if not (folder / BASE_CONFIG).exists():
            made = with_head(job.base, job.splits.train, job.classes, job.config.head, progress=progress)
            save_base(folder, made)
    return at_size(open_base(str(folder), job.config.device), job.base.input_size[1:])


def _say_how_long(job: HardenJob, bench: Workbench) -> None:
    x, y = job.splits.reported.fetch(torch.arange(min(8, len(job.splits.reported))))
    seconds = seconds_of_harden(
        bench,
        job.config,
        job.members,
        (job.transfer.values(), job.adaptive.values()),
        x,
        y,
        train=len(job.splits.train),
        reported=len(job.splits.reported),
    )
    bench.progress.message(f"{len(job.members)} trainings: {in_words(seconds)}")


def _report(measuring: Measuring, trained: Sequence[Trained], splits: Splits, classes: Sequence[str]) -> Report:
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
