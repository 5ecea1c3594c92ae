"""The main job: one adapter per attack on a frozen base, each measured, and a report of what it buys."""

import dataclasses
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path

import torch

from loradar.adapters import Adapter, fingerprint, init_adapter, load, save
from loradar.attacks import named_attacks
from loradar.core.config import check_run_settings
from loradar.core.errors import BadConfigError, did_you_mean
from loradar.core.leases import lease
from loradar.core.names import BASE_CONFIG
from loradar.core.types import Attack, Progress
from loradar.data import Source, Splits, fetch_all, load_source, split
from loradar.evaluation.candidates import ReportedImages
from loradar.evaluation.measure import device_of
from loradar.evaluation.workbench import Workbench, open_bench
from loradar.jobs.bases import at_size, needs_other_head, with_head
from loradar.jobs.config import HardenConfig
from loradar.jobs.estimate import in_words, seconds_of_harden, steps_in_words
from loradar.jobs.harden_report import report_of
from loradar.jobs.measuring import Measuring
from loradar.jobs.members import BASELINES, Member, plan
from loradar.jobs.train_adapter import Trained, fit_settings, train_adapter
from loradar.models import Base, open_base, save_base
from loradar.report.files import read_report, write_report
from loradar.report.schema import Report
from loradar.training import ALONE, World, joined


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


def estimate(job: HardenJob) -> dict[str, float]:
    """Seconds of each of the `parts`, and of what is then left ("") at most, from a few timed images."""
    bench = open_bench(job.base, job.config, None)
    found = {}
    for one in job.members:
        seconds = _seconds(job, bench, (one,), ((), ()))
        found[one.name] = seconds["crafting"] + seconds["training"]
    measured = _seconds(job, bench, job.members, (job.transfer.values(), job.adaptive.values()))
    return found | {"": measured["measuring"]}


def run_part(job: HardenJob, name: str, progress: Progress | None = None) -> None:
    """Does the training `name` of `parts`; `run` then finds it finished."""
    check_run_settings(job.config, "effort")
    base = base_of(job, progress)
    bench = open_bench(base, job.config, progress)
    _trained(next(one for one in job.members if one.name == name), bench, job)


def run(job: HardenJob, *, progress: Progress | None = None) -> HardenResult:
    """Trains and measures every adapter of `job`.

    The out folder receives `adapters/NAME/` (the selected epoch of each), `report.json`, `report.md`, `report.html`, and
    `work/` with every epoch. A run that was killed continues there and ends with the same bits. Several processes, started
    by torchrun, train each adapter together and all return the result; the first one alone measures, writes and tells
    `progress`.
    """
    with joined(device_of(job.base.model)) as world:
        if world.size > 1:
            identity = [job.config.model_dump_json(), fingerprint(job.base.model), repr(job.splits.record)]
            world.check_same("settings, base or data", identity)
        if world.rank:
            return _train_with_first(job, world)
        with lease(job.config.out, wait=job.config.wait, progress=progress):
            return _train_and_measure(job, world, progress)


def _train_with_first(job: HardenJob, world: World) -> HardenResult:
    config = job.config
    world.wait()  # until the first one holds the folder, and a new head is in it
    bench = open_bench(job.base if not job.other_head else _kept_head(job), config, None)
    for one in job.members:
        _trained(one, bench, job, world)
    world.wait()  # until all is measured and written
    names = [member.name for member in job.members if member.kind not in BASELINES]
    adapters = {name: load(config.out / "adapters" / name) for name in names}
    return HardenResult(adapters=adapters, report=read_report(config.out), page=config.out / "report.html")


def _train_and_measure(job: HardenJob, world: World, progress: Progress | None) -> HardenResult:
    config = job.config
    check_run_settings(config, "effort")  # the same trainings may be measured anew
    base = base_of(job, progress)
    world.wait()
    bench = open_bench(base, config, progress)
    _say_how_long(job, bench)
    trained = [_trained(one, bench, job, world) for one in job.members]
    x, y = fetch_all(job.splits.reported)
    measuring = Measuring(
        bench=bench,
        config=config,
        transfer=job.transfer,
        adaptive=job.adaptive,
        reported=ReportedImages(x=x, y=y, seed=config.seed),
    )
    report = report_of(measuring, trained, job.splits, job.classes)
    if world.size > 1:  # normalisation that moves sees the slice of a process
        report = dataclasses.replace(report, settings={**report.settings, "processes": world.size})
    adapters = {}
    for one in trained:
        own = (one.member.model, one.member.attack.spec)
        rows = [dataclasses.asdict(r) for r in report.rows if (r.model, r.trained_against) == own]
        card = {"measured": rows, "selected_epoch": one.selected.epoch}
        adapter = load(one.selected.folder).with_card(**card)
        save(adapter, config.out / "adapters" / one.member.name)
        if one.member.kind not in BASELINES:
            adapters[one.member.name] = adapter
    page = write_report(report, config.out)
    world.wait()
    return HardenResult(adapters=adapters, report=report, page=page)


def _trained(member: Member, bench: Workbench, job: HardenJob, world: World = ALONE) -> Trained:
    folder = job.config.out / "work" / member.name
    held = nullcontext() if world.rank else lease(folder, wait=job.config.wait, progress=bench.progress)
    with held:
        return train_adapter(member, bench, job.splits, job.config, folder, world)


def base_of(job: HardenJob, progress: Progress | None) -> Base:
    """The base of `job`; where the data need another head, the base with one, kept in the out folder as `base`."""
    if not job.other_head:
        return job.base
    folder = job.config.out / "base"
    with lease(folder, wait=True, progress=progress, beside=True):  # parts of a run may want it at one time
        if not (folder / BASE_CONFIG).exists():
            made = with_head(job.base, job.splits.train, job.classes, job.config.head, progress=progress)
            save_base(folder, made)
    return _kept_head(job)


def _kept_head(job: HardenJob) -> Base:
    return at_size(open_base(str(job.config.out / "base"), job.config.device), job.base.input_size[1:])


def _say_how_long(job: HardenJob, bench: Workbench) -> None:
    seconds = _seconds(job, bench, job.members, (job.transfer.values(), job.adaptive.values()))
    steps, few = steps_in_words(len(job.splits.train), fit_settings(job.config))
    each = " each" if len(job.members) > 1 else ""
    bench.progress.message(f"{', '.join(member.name for member in job.members)}: {steps}{each}; {in_words(seconds)}")
    for warning in filter(None, (few, job.splits.warning)):
        bench.progress.message(warning)


def _seconds(
    job: HardenJob, bench: Workbench, members: Sequence[Member], attacks: tuple[Iterable[Attack], Iterable[Attack]]
) -> dict[str, float]:
    x, y = job.splits.reported.fetch(torch.arange(min(8, len(job.splits.reported))))
    return seconds_of_harden(
        bench, job.config, members, attacks, x, y, train=len(job.splits.train), reported=len(job.splits.reported)
    )
