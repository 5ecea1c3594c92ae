"""A job as data: what a file of stages comes to, as tasks that any process on any machine may do.

A task is a stage, or a part of one that its job can do apart: a training, the tasks of a domain, a shard of images. It is
JSON, its id is a hash of what decides its outcome, and `out/tasks/ID/` holds its record: `task.json`, `attempts.jsonl`,
`progress.json`, and of a part `done.json`. The mark, that or of a stage `stages/NAME.json`, is written once all else is there.
What it makes lies in the folder of its stage.
"""

import dataclasses
import hashlib
import importlib
import json
import os
import platform
import re
import time
from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import TypeAdapter

from loradar.core.config import Config, validate
from loradar.core.errors import BadFileError, LoradarError
from loradar.core.files import make_folder, open_regular, read_regular, sha256, write_atomically
from loradar.core.leases import held_lately, lease
from loradar.core.names import BASE_CONFIG
from loradar.core.processes import Process, is_running, this_process
from loradar.core.types import NullProgress, Progress
from loradar.jobs.stages import JOBS, Stage, StagesJob, is_finished, mark_of, marked, publish

TASKS = "tasks"
STOPPED, DONE = "stopped", "done"
State = Literal["waiting", "ready", "running", "killed", "failed", "stopped", "done"]
_ELSEWHERE = {"out", "cache", "device", "tensorboard"}
"""Settings that do not change what a task ends with, but where."""
_WEIGHTS = ("*.safetensors", BASE_CONFIG)


class CancelledError(LoradarError):
    """A task that was asked to stop."""


@dataclass(frozen=True, kw_only=True)
class Task:
    """One piece of work. `part` is "" for a whole stage; `needs` are the ids of the tasks that it waits for.

    `settings` are those of the stage, `folder` its record's. `inputs` name by content what the settings name by place.
    """

    id: str
    stage: str
    part: str
    job: str
    settings: Mapping[str, Any]
    inputs: Mapping[str, str]
    needs: tuple[str, ...]
    folder: Path
    mark: Path
    stage_mark: Path

    @property
    def name(self) -> str:
        """For people: `harden pgd`."""
        return f"{self.stage} {self.part}".rstrip()

    @property
    def is_done(self) -> bool:
        """Whether its mark or its whole stage's is there, and the stage's folder, which a user may have deleted."""
        return (self.stage_mark.exists() or self.mark.exists()) and Path(self.settings["out"]).exists()


_TASK = TypeAdapter(Task)
_PLAN = TypeAdapter(list[Task])


@dataclass(frozen=True, kw_only=True)
class Attempt:
    """One try of a task: who, since when and until when (seconds since 1970), and how it ended: "" while that is not said."""

    host: str
    process: Process
    began: float
    ended: float = 0.0
    outcome: str = ""


_ATTEMPT = TypeAdapter(Attempt)


def plan(job: StagesJob, *, apart: bool = True) -> tuple[Task, ...]:
    """Every task of `job`, also what is done, before those that wait for it.

    With `apart`, stages are split into the parts that can be done at one time; else each is one task. A stage waits for those
    whose folders its settings name. Raises BadConfigError for a stage that is finished with other settings.
    """
    found: list[Task] = []
    makers: dict[str, Task] = {}  # by the folder that each fills
    for stage in job.stages:
        is_finished(job, stage)  # with other settings?
        settings = stage.settings
        before = {place: maker for place, maker in makers.items() if _names(settings, place)}
        inputs = {place: maker.id for place, maker in before.items()}
        inputs |= {place: content for place, content in _contents(stage.config).items() if not _is_in(place, inputs)}
        needs = tuple(maker.id for maker in before.values())
        parts: dict[str, Task] = {}
        module = importlib.import_module(JOBS[stage.job][0])
        if apart and hasattr(module, "parts"):
            for part, after in module.parts(stage.config).items():
                waits = (*needs, *(parts[name].id for name in after))
                parts[part] = _task(job, stage, part, settings, inputs, waits)
        own = (*needs, *(part.id for part in parts.values()))
        makers[str(stage.out)] = whole = _task(job, stage, "", settings, inputs, own)
        found += [*parts.values(), whole]
    return tuple(found)


def _is_in(place: str, folders: Collection[str]) -> bool:
    return any(Path(place).absolute().is_relative_to(Path(folder).absolute()) for folder in folders)


def _task(
    job: StagesJob, stage: Stage, part: str, settings: dict[str, Any], inputs: dict[str, str], needs: tuple[str, ...]
) -> Task:
    told = {key: value for key, value in settings.items() if key not in _ELSEWHERE}
    text = json.dumps([stage.name, stage.job, part, told, sorted(inputs.values())], sort_keys=True)
    for place, content in inputs.items():
        text = text.replace(json.dumps(place)[1:-1], content)
    name = sha256(text.encode())[:16]
    folder = job.out / TASKS / name
    return Task(
        id=name,
        stage=stage.name,
        part=part,
        job=stage.job,
        settings=settings,
        inputs=inputs,
        needs=needs,
        folder=folder,
        mark=folder / "done.json" if part else mark_of(job, stage),
        stage_mark=mark_of(job, stage),
    )


def _names(settings: Any, place: str) -> bool:
    """Whether a text within `settings` names the folder `place`, or something in it."""
    if isinstance(settings, dict):
        return any(_names(value, place) for key, value in settings.items() if key != "out")
    if isinstance(settings, list):
        return any(_names(value, place) for value in settings)
    if not isinstance(settings, str):
        return False
    names = "|".join(re.escape(each) for each in (place, str(Path(place).absolute())))
    return re.search(rf"(^|[=:,])(\./+)*({names})($|[/:,])", settings) is not None


def _contents(config: Config) -> dict[str, str]:
    """The hash of each folder of weights that the settings name and that is there: another base is another task.

    Images are named by their source alone: hashing a million of them would take longer than many tasks.
    """
    found = {}
    for field in ("base", "pool", "guard", "adapter", "candidate"):
        named = getattr(config, field, None)
        for one in named if isinstance(named, list | tuple) else [named]:
            folder = Path(str(one).removeprefix("stages:")) if one else None
            if folder is not None and _is_folder(folder):
                files = sorted(path for pattern in _WEIGHTS for path in folder.rglob(pattern) if path.is_file())
                if files:
                    found[str(folder)] = sha256("".join(map(_file_hash, files)).encode())[:16]
    return found


def _is_folder(path: Path) -> bool:
    try:
        return path.is_dir()
    except (OSError, ValueError):  # no name of a folder at all
        return False


def _file_hash(path: Path) -> str:
    with open_regular(path) as file:
        found = hashlib.sha256()
        while chunk := file.read(1 << 20):
            found.update(chunk)
    return found.hexdigest()


def perform(task: Task, progress: Progress | None = None) -> None:
    """Does `task` where this is called, unless it is done; a second call at the same time waits for the first.

    Raises what the job raises; the attempt is recorded either way, also where the process is killed.
    """
    make_folder(task.folder)
    with lease(task.folder, wait=True, progress=progress):
        if task.is_done:
            return
        write_atomically(task.folder / "task.json", _TASK.dump_json(task, indent=1))
        began = Attempt(host=platform.node(), process=this_process(), began=time.time())
        _record(task, began)
        outcome = ""
        try:
            _do(task, progress or NullProgress())
            make_folder(Path(task.settings["out"]))  # a part may have had nothing to do
            write_atomically(task.mark, json.dumps(marked(task.settings), indent=1).encode())
            outcome = DONE
        except CancelledError:
            outcome = STOPPED
            raise
        except LoradarError as error:
            outcome = f"failed: {error}"
            raise
        except Exception as error:
            outcome = f"failed: {type(error).__name__}: {' '.join(str(error).split())}"
            raise
        except BaseException:
            outcome = STOPPED
            raise
        finally:
            ended = dataclasses.replace(began, ended=time.time(), outcome=outcome)
            _record(task, ended)


def run(job: StagesJob, *, progress: Progress | None = None) -> tuple[str, ...]:
    """Does every stage of `job` that is not finished, one after the other; returns the names of those that it did."""
    tasks = [task for task in plan(job, apart=False) if not task.is_done]
    for task in tasks:
        perform(task, progress)
    publish(job)
    return tuple(task.stage for task in tasks)


def _do(task: Task, progress: Progress) -> None:
    module_name, schema_module, schema = JOBS[task.job]
    config = validate(getattr(importlib.import_module(schema_module), schema), {**task.settings, "wait": True})
    module = importlib.import_module(module_name)
    if task.part:
        module.run_part(module.resolve(config), task.part, progress)
    else:
        module.run(module.resolve(config), progress=progress)


def _record(task: Task, attempt: Attempt) -> None:
    """Appends a line; a line that a kill cut short is told by having no end."""
    line = json.dumps(_ATTEMPT.dump_python(attempt)) + "\n"
    handle = os.open(task.folder / "attempts.jsonl", os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    try:
        os.write(handle, line.encode())
        os.fsync(handle)
    finally:
        os.close(handle)


def write_plan(tasks: Sequence[Task], out: Path) -> None:
    """Writes what `read_plan` reads, for those who ask how a run is doing."""
    write_atomically(out / TASKS / "plan.json", _PLAN.dump_json(list(tasks), indent=1))


def read_plan(out: Path) -> tuple[Task, ...]:
    """The tasks of the last run in `out`, which may have been started from another working directory.

    Raises BadFileError where there was none.
    """
    path = out / TASKS / "plan.json"
    try:
        return tuple(_seen_from_here(task, out) for task in _PLAN.validate_json(read_regular(path)))
    except FileNotFoundError:
        raise BadFileError(
            f"{out} holds no run of a file of stages; expected the out folder of `loradar run`"
        ) from None
    except (OSError, ValueError, LookupError) as error:
        raise BadFileError(f"{path} is damaged; run the same file again to write it anew") from error


def _seen_from_here(task: Task, out: Path) -> Task:
    """`task` with the paths of the run's folder as they are from here: those of the plan start where the run did."""
    before, made = task.stage_mark.parents[1], Path(task.settings["out"])
    inside = made.is_relative_to(before)
    return dataclasses.replace(
        task,
        folder=out / task.folder.relative_to(before),
        mark=out / task.mark.relative_to(before),
        stage_mark=out / task.stage_mark.relative_to(before),
        settings={**task.settings, "out": str(out / made.relative_to(before) if inside else made)},
    )


def attempts(task: Task) -> list[Attempt]:
    """Every try of `task`, the latest last; of two lines of one try the second, which knows its end."""
    found: dict[tuple[Process, float], Attempt] = {}
    try:
        lines = read_regular(task.folder / "attempts.jsonl").splitlines()
    except OSError:
        return []
    for line in lines:
        with suppress(ValueError):  # a line that a kill cut short
            one = _ATTEMPT.validate_json(line)
            found[one.process, one.began] = one
    return list(found.values())


def state_of(task: Task, done: Collection[str]) -> State:
    """Where `task` stands; `done` are the ids of those that are."""
    if task.is_done:
        return "done"
    tried = attempts(task)
    if not tried or tried[-1].outcome == DONE:  # what it made was deleted since
        return "ready" if set(task.needs) <= set(done) else "waiting"
    last = tried[-1]
    if last.outcome:
        return "stopped" if last.outcome == STOPPED else "failed"
    running = is_running(last.process)
    if running is None:  # on another machine, which cannot be asked: by its lease's heartbeat
        running = held_lately(task.folder)
    return "running" if running else "killed"
