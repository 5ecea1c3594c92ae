"""Trains one adapter with many settings of harden, by Optuna's samplers, and hardens with the best on validation images."""

import dataclasses
import shutil
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from loradar.core.config import check_run_settings
from loradar.core.errors import BadConfigError, BadFileError, DivergedError
from loradar.core.files import read_regular, write_atomically
from loradar.core.leases import lease
from loradar.core.names import CHECKPOINT
from loradar.core.types import NullProgress, Progress
from loradar.data import Source
from loradar.evaluation.workbench import NamedProgress, open_bench
from loradar.jobs import harden
from loradar.jobs.config import HardenConfig
from loradar.jobs.members import plan
from loradar.jobs.sweep_config import Range, SweepConfig
from loradar.jobs.sweep_study import SharedStudy, sampled
from loradar.jobs.train_adapter import train_adapter
from loradar.models import Base
from loradar.report.files import write_report
from loradar.report.schema import Report
from loradar.report.sweeps import Searched, SweepSection, SweepTrial
from loradar.training import Epoch, best_epoch, read_epochs

_STATES = {"COMPLETE": "finished", "PRUNED": "stopped", "FAIL": "failed"}


@dataclass(frozen=True, kw_only=True, eq=False)
class SweepJob:
    """A base, its images, and every trial's settings. `hardening` is harden's own job, of the first trial."""

    config: SweepConfig
    hardening: harden.HardenJob
    searched: tuple[Mapping[str, Any], ...]
    trials: tuple[HardenConfig, ...]


@dataclass(frozen=True, kw_only=True, eq=False)
class SweepResult:
    """The hardening with the best settings, those settings, the sweep's report, and the path of its page."""

    best: harden.HardenResult
    settings: Mapping[str, Any]
    report: Report
    page: Path


def resolve(config: SweepConfig, *, base: Base | None = None, source: Source | None = None) -> SweepJob:
    """Draws every trial's settings and checks that they fit the base; nothing long is done and nothing is written.

    `base` and `source` in memory take the place of what `config` names. Raises LoradarError.
    """
    searched = sampled(config)
    trials = tuple(config.hardening(changes, _folder(config, n)) for n, changes in enumerate(searched))
    targets = {plan(trial)[0].target for trial in trials}
    if len(targets) > 1:
        raise BadConfigError(
            "trials have the attack_target base and defended, whose scores are counted on other images; give one in settings"
        )
    hardening = harden.resolve(config.hardening(searched[0]), base=base, source=source)
    for trial in trials:
        harden.check_training(hardening.base, trial, other_head=hardening.other_head)
    return SweepJob(config=config, hardening=hardening, searched=tuple(searched), trials=trials)


def parts(config: SweepConfig) -> dict[str, tuple[str, ...]]:
    """What may be done at one time before `run`: each worker trains trials. None waits for another.

    >>> parts(SweepConfig(base="b", settings={"attacks": ["pgd"]}, search={"rank": [2, 4]}, workers=2))
    {'worker-0': (), 'worker-1': ()}
    """
    return {f"worker-{number}": () for number in range(config.workers)} if config.workers > 1 else {}


def run_part(job: SweepJob, name: str, progress: Progress | None = None) -> None:
    """Trains trials, beside other processes that do, until none is left that no process has."""
    # how many there are is no setting of the sweep's outcome, and may not be known here
    if not name.startswith("worker-"):
        raise BadConfigError(f"a sweep has no part {name!r}; expected worker-0, worker-1, ...")
    job, study = _opened(job, progress)
    _work(job, study, progress, wait=False)


def run(job: SweepJob, *, progress: Progress | None = None) -> SweepResult:
    """Trains what trials are left, hardens with the best one's settings, and writes the report.

    The out folder receives `trials/NNN/` with every epoch, `best/` with all that `harden` writes, and the report. A sweep that
    was killed continues there; in one process it ends with the same bits.
    """
    with lease(job.config.out, wait=job.config.wait, progress=progress):
        job, study = _opened(job, progress)
        _work(job, study, progress, wait=True)
        trials = [_trial(job, study, number) for number in range(len(job.trials))]
        finished = [trial for trial in trials if trial.state == "finished"]
        if not finished:
            raise BadConfigError(f"no trial came to its end; trial {trials[0].number}: {trials[0].reason}")
        section = _section(job.config, trials)
        best = _harden(job, section.best - 1, progress)
        computed_in = {"computed_in": best.report.settings["computed_in"]}
        report = dataclasses.replace(
            best.report,
            title="Sweep report",
            settings=job.config.model_dump(mode="json", exclude={"out", "cache"}) | computed_in,
            sweep=section,
            pictures=(),
            training=None,
        )
        page = write_report(report, job.config.out)
        return SweepResult(best=best, settings=job.searched[section.best - 1], report=report, page=page)


def _folder(config: SweepConfig, number: int) -> Path:
    return config.out / "trials" / f"{number + 1:03d}"


def _opened(job: SweepJob, progress: Progress | None) -> tuple[SweepJob, SharedStudy]:
    """The job with its base as trials take it, and the study that processes share; one process after the other."""
    config = job.config
    with lease(config.out / "trials", wait=True, progress=progress):
        check_run_settings(config)
        base = harden.base_of(job.hardening, progress)
        study = SharedStudy(
            config.out / "study.journal", config, job.searched, epochs=max(trial.epochs for trial in job.trials)
        )
    return dataclasses.replace(job, hardening=dataclasses.replace(job.hardening, base=base, other_head=False)), study


def _work(job: SweepJob, study: SharedStudy, progress: Progress | None, *, wait: bool) -> None:
    """Trains every trial that is not done, by number; those of other processes are waited for or left to them."""
    for number in range(len(job.trials)):
        if study.is_done(number):
            continue
        with ExitStack() as stack:
            try:
                stack.enter_context(lease(_folder(job.config, number), wait=wait, progress=progress))
            except BadFileError:
                if wait:
                    raise
                continue  # another process has it; trouble with the disk, `run` meets again
            if not study.is_done(number):  # it may have been, while its lease was waited for
                _train(job, study, number, progress or NullProgress())


def _train(job: SweepJob, study: SharedStudy, number: int, progress: Progress) -> None:
    config, weight = job.trials[number], job.config.clean_weight
    name = f"trial {number + 1} of {len(job.trials)}"
    bench = open_bench(job.hardening.base, config, NamedProgress(progress=progress, name=name))
    began = time.monotonic() - study.start(number)

    def report(epoch: Epoch) -> None:
        study.report(number, epoch.epoch + 1, epoch.score(weight) / epoch.total, time.monotonic() - began)

    def stop(epoch: Epoch) -> bool:
        report(epoch)
        return job.config.early_stopping and epoch.epoch + 1 < config.epochs and study.should_stop(number)

    try:
        trained = train_adapter(plan(config)[0], bench, job.hardening.splits, config, config.out, stop=stop)
    except DivergedError as error:
        progress.message(f"{name} failed: {error}")
        study.fail(number, str(error))
        return
    for epoch in trained.epochs[len(study.trials[number].intermediate_values) :]:  # of a journal that was deleted
        report(epoch)
    stopped = len(trained.epochs) < config.epochs
    study.finish(number, trained.selected.score(weight) / trained.selected.total, stopped=stopped)


def _trial(job: SweepJob, study: SharedStudy, number: int) -> SweepTrial:
    noted, config = study.trials[number], job.trials[number]
    epochs = read_epochs(config.out / "epochs", len(noted.intermediate_values))
    failed = noted.state.name == "FAIL"
    return SweepTrial(
        number=number + 1,
        settings=dict(job.searched[number]),
        state=_STATES[noted.state.name],  # type: ignore[arg-type]
        planned=config.epochs,
        clean=tuple(int(epoch.clean) for epoch in epochs),
        adversarial=tuple(int(epoch.adversarial or 0) for epoch in epochs),
        total=len(job.hardening.splits.validation),
        selected=0 if failed else best_epoch(epochs, clean_weight=config.clean_weight).epoch + 1,
        seconds=round(float(noted.user_attrs.get("seconds", 0.0)), 1),
        reason=str(noted.user_attrs.get("reason", "")),
    )


def _section(config: SweepConfig, trials: Sequence[SweepTrial]) -> SweepSection:
    def searched(name: str, choice: list[Any] | Range) -> Searched:
        if isinstance(choice, list):
            return Searched(name=name, values=tuple(choice))
        return Searched(name=name, low=choice.low, high=choice.high, log=choice.log)

    section = SweepSection(
        trials=tuple(trials),
        searched=tuple(searched(name, choice) for name, choice in config.search.items()),
        best=next(trial.number for trial in trials if trial.state == "finished"),
        attack=config.hardening({}).attacks[0],
        method=config.method,
        early_stopping=config.early_stopping,
        clean_weight=config.clean_weight,
        seed=config.seed,
    )
    finished = [trial for trial in trials if trial.state == "finished"]
    return dataclasses.replace(section, best=max(finished, key=section.score).number)  # the earliest of equals


def _harden(job: SweepJob, number: int, progress: Progress | None) -> harden.HardenResult:
    """Hardens with a trial's settings in `best/`, from the epochs that the trial has trained."""
    config = job.config.hardening(job.searched[number], job.config.out / "best")
    members = plan(config)
    work = config.out / "work" / members[0].name
    if not (work / CHECKPOINT).exists():
        trained = job.trials[number].out
        try:
            shutil.copytree(trained / "epochs", work / "epochs", dirs_exist_ok=True)
            # last: a checkpoint says that the epochs are there
            write_atomically(work / CHECKPOINT, read_regular(trained / CHECKPOINT))
        except OSError as error:
            raise BadFileError(f"could not copy {trained} to {work}: {error}; free some space, run it again") from error
    return harden.run(dataclasses.replace(job.hardening, config=config, members=members), progress=progress)
