"""What `loradar run`, `plan` and `cancel` do."""

import importlib
import time
from functools import partial
from pathlib import Path, PurePosixPath

from loradar.cluster.config import FileConfig, RunFileConfig
from loradar.cluster.driver import execute, execute_here
from loradar.cluster.runners import runner
from loradar.cluster.work import cancel_file
from loradar.core.errors import BadConfigError, BadFileError
from loradar.core.files import make_folder, write_atomically
from loradar.core.leases import is_held, lease
from loradar.core.remote import RemoteFolder
from loradar.core.timing import duration
from loradar.core.types import Progress
from loradar.jobs import stages, tasks
from loradar.jobs.stages import JOBS, StagesJob
from loradar.jobs.tasks import TASKS, Task

_CANCEL_SECONDS = 60.0


def run(config: RunFileConfig, progress: Progress) -> tuple[StagesJob, tuple[str, ...]]:
    """Runs what is left of a file's stages; returns the job, and the names of the stages that were left.

    Raises BadConfigError, and LoradarError where a task cannot be done; those that are done stay so.
    """
    for name, engines in (("ray", ("ray",)), ("slurm", ("slurm",)), ("store", ("processes", "ray", "slurm"))):
        if getattr(config, name) and config.on not in engines:
            raise BadConfigError(f"{name} is for {', '.join(engines)}, not {config.on}; say --on {engines[-1]}")
    job = _resolved(config)
    store = RemoteFolder(config.store) if config.store and config.on != "local" else None
    advice = f"wait, stop it with `loradar cancel {job.out}`, or choose another folder with --set out=FOLDER"
    with lease(job.out / TASKS, progress=progress, advice=advice):
        cancel_file(job.out).unlink(missing_ok=True)
        if store is not None:
            store.pull(job.out, wanted=_is_result)
        found = tasks.plan(job, apart=config.on != "local")
        fetch = partial(_fetch, store, found, job.out)
        fetch()
        left = tuple(dict.fromkeys(task.stage for task in found if not task.is_done))
        tasks.write_plan(found, job.out)
        if config.on == "local":
            if config.threads is not None:
                import torch

                torch.set_num_threads(config.threads)
            execute_here(found, job.out, progress)
        elif left:
            with runner(config, job.out) as engine:
                execute(found, engine, job.out, progress, refresh=fetch)
        stages.publish(job)
    return job, left


def plan(config: FileConfig) -> tuple[StagesJob, tuple[Task, ...], dict[str, float]]:
    """What `run` would do on an engine, and about how many seconds the tasks take, by id, where that can be told.

    It is told of stages whose inputs are there, by timing a few images.
    """
    job = _resolved(config)
    found = tasks.plan(job)
    undone = {task.id: task for task in found if not task.is_done}
    seconds: dict[str, float] = {}
    for stage in job.stages:
        own = [task for task in undone.values() if task.stage == stage.name]
        waits = {one for task in own for one in task.needs if one in undone and undone[one].stage != stage.name}
        module = importlib.import_module(JOBS[stage.job][0])
        if own and not waits and hasattr(module, "estimate"):
            told = module.estimate(module.resolve(stage.config))
            seconds |= {task.id: told[task.part] for task in own if task.part in told}
    return job, found, seconds


def cancel(out: Path) -> list[str]:
    """Asks the run in `out` to stop and waits until it has; returns the names of the tasks that ran, or were about to.

    Raises BadFileError where there is no run, and where it does not stop within a minute.
    """
    found = tasks.read_plan(out)
    running = _in_state(found, "running")
    if not running:
        if not is_held(out / TASKS):
            return []
        # the engine has just been started
        running = _in_state(found, "ready", "killed", "stopped", "failed")
    write_atomically(cancel_file(out), b"")
    until = time.monotonic() + _CANCEL_SECONDS
    while (still := _in_state(found, "running")) or is_held(out / TASKS):
        if time.monotonic() > until:
            raise BadFileError(
                f"{', '.join(still) or 'the run'} did not stop within {duration(_CANCEL_SECONDS)}; they will at their next step"
            )
        time.sleep(0.2)
    return running


def _fetch(store: RemoteFolder | None, found: tuple[Task, ...], out: Path) -> None:
    """Brings what was made, and a folder for each stage of which a part is done: of some parts, nothing else comes here."""
    if store is None:
        return
    store.pull(out, wanted=_is_result)
    for task in found:
        if task.mark.exists():
            make_folder(Path(task.settings["out"]))


def _is_result(name: str) -> bool:
    """All but the work on the way."""
    return PurePosixPath(name).parts[1:2] != ("work",)


def _in_state(found: tuple[Task, ...], *states: tasks.State) -> list[str]:
    done = {task.id for task in found if task.is_done}
    return [task.name for task in found if tasks.state_of(task, done) in states]


def _resolved(config: FileConfig) -> StagesJob:
    pairs = [change.partition("=") for change in config.set]
    if odd := next((change for change, (_, sign, _) in zip(config.set, pairs, strict=True) if not sign), None):
        raise BadConfigError(f"--set {odd!r} cannot be read; expected NAME=VALUE")
    return stages.resolve(config.file, only=config.only, changes={name: value for name, _, value in pairs})
