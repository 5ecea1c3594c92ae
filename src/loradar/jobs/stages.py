"""Several jobs in one file: `loradar run FILE.yaml`. Each stage may use the folders of those before it.

    vars: {seed: 0}
    out: runs/mine-${seed}
    stages:
      base: {job: pretrain, data: digits}
      harden: {job: harden, base: "${base}", data: digits, attacks: [pgd]}
      audit: {job: audit, base: "${base}", adapter: ["${harden}/adapters/pgd"], data: digits, publish: .}

`${NAME}` is a variable, or the out folder of an earlier stage. A stage that is finished is not run again; one that was
killed continues. `publish` names a folder, relative to the file, that receives the stage's report.json and report.md.
"""

import importlib
import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from string import Template
from typing import Any

from loradar.core.config import Config, read_file, read_value, shown, validate
from loradar.core.errors import BadConfigError, BadFileError, did_you_mean
from loradar.core.files import parse_object, read_regular
from loradar.core.names import REPORT, check_names

JOBS: dict[str, tuple[str, str, str]] = {
    "pretrain": ("loradar.jobs.pretrain", "loradar.jobs.config", "PretrainConfig"),
    "craft": ("loradar.jobs.craft", "loradar.jobs.config", "CraftConfig"),
    "harden": ("loradar.jobs.harden", "loradar.jobs.config", "HardenConfig"),
    "sweep": ("loradar.jobs.sweep", "loradar.jobs.sweep_config", "SweepConfig"),
    "audit": ("loradar.jobs.audit", "loradar.jobs.config", "AuditConfig"),
    "guard build": ("loradar.guard.build", "loradar.guard.config", "GuardBuildConfig"),
    "guard audit": ("loradar.guard.audit", "loradar.guard.config", "GuardAuditConfig"),
    "meta-tune": ("loradar.fewshot.meta_tune", "loradar.fewshot.config", "MetaTuneConfig"),
    "few-shot fit": ("loradar.fewshot.fit", "loradar.fewshot.config", "FewShotFitConfig"),
    "few-shot eval": ("loradar.fewshot.evaluate", "loradar.fewshot.config", "FewShotEvalConfig"),
}
"""The module with `resolve` and `run`, and the schema of its settings, of every job that a stage may name.

A module may also have `parts(config)`, what can be done apart before `run` and what each waits for, and `run_part`.
"""


@dataclass(frozen=True, kw_only=True)
class Stage:
    """One job of a file, its settings checked. `publish` is where its report is copied to, if anywhere."""

    name: str
    job: str
    config: Config
    out: Path
    publish: Path | None

    @property
    def settings(self) -> dict[str, Any]:
        """All of them, as JSON."""
        found: dict[str, Any] = json.loads(self.config.model_dump_json())
        return found


@dataclass(frozen=True, kw_only=True)
class StagesJob:
    """The stages of a file in order; `out` holds a folder for each, and the marks of those that are finished."""

    stages: tuple[Stage, ...]
    out: Path


def resolve(file: Path, *, only: Sequence[str] = (), changes: Mapping[str, str] | None = None) -> StagesJob:
    """Reads `file` and checks every stage's settings against its schema, before any of them runs.

    `only` picks stages; `changes` set `out`, a variable (`seed`) or a stage's setting (`harden.epochs`), as YAML text.
    Raises BadConfigError, one line.
    """
    content = read_file(file)
    for key in content:
        if key not in ("vars", "out", "stages"):
            raise BadConfigError(f"{file}: unknown key {key!r}; {did_you_mean(key, ('vars', 'out', 'stages'))}")
    stages = content.get("stages")
    if not isinstance(stages, dict) or not stages or not all(isinstance(one, dict) for one in stages.values()):
        raise BadConfigError(f"{file} holds no stages; expected 'stages:' with a table of settings for each name")
    variables = content.get("vars") or {}
    if not isinstance(variables, dict):
        raise BadConfigError(f"{file}: vars holds a {type(variables).__name__}; expected a table (name: value)")
    known = {str(name): str(value) for name, value in variables.items()}
    stages = {str(name): dict(settings) for name, settings in stages.items()}
    check_names(stages, f"{file}: a stage")
    changes = dict(changes or {})
    place = changes.pop("out", None) or str(content.get("out", f"runs/{file.stem}"))
    _change(known, stages, changes)
    out = Path(_filled(place, known, f"{file}: out"))
    if "\0" in str(out):
        raise BadConfigError(f"{file} has the out {shown(str(out))}; expected a name that a folder can have")
    found = []
    for name, settings in stages.items():
        found.append(_stage(file, name, _filled(settings, known, f"{file}: stage {name}"), out))
        known[name] = str(found[-1].out)
    _check_folders(file, found, out)
    for name in only:
        if name not in stages:
            raise BadConfigError(f"{file} has no stage {name!r}; {did_you_mean(name, stages)}")
    return StagesJob(stages=tuple(one for one in found if not only or one.name in only), out=out)


def mark_of(job: StagesJob, stage: Stage) -> Path:
    """Returns the file that says, once it is there, that `stage` is finished, and with which settings."""
    return job.out / "stages" / f"{stage.name}.json"


def marked(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Returns what a mark holds of a stage's settings: all but the device that it was computed on."""
    return {key: value for key, value in settings.items() if key != "device"}


def is_finished(job: StagesJob, stage: Stage) -> bool:
    """Whether `stage` was finished before, and its folder is there.

    Raises BadConfigError where that was with other settings.
    """
    mark = mark_of(job, stage)
    if not mark.exists() or not stage.out.exists():  # a user may have deleted what it made
        return False
    try:
        before = parse_object(read_regular(mark))
    except (OSError, ValueError) as error:
        raise BadFileError(f"{mark} is damaged ({error}); delete it to run the stage {stage.name} again") from error
    settings = marked(stage.settings)
    odd = [key for key in settings if before.get(key) != settings[key]]
    if odd:
        raise BadConfigError(
            f"stage {stage.name} is finished with {odd[0]} = {before.get(odd[0])!r}, now {settings[odd[0]]!r}; choose "
            f"another out, or delete {mark} and {stage.out}"
        )
    return True


def publish(job: StagesJob) -> None:
    """Copies the reports of finished stages to where their stages say."""
    for stage in job.stages:
        if stage.publish is not None:
            stage.publish.mkdir(parents=True, exist_ok=True)
            for name in (REPORT, "report.md"):
                shutil.copy(stage.out / name, stage.publish / name)


def _stage(file: Path, name: str, settings: dict[str, Any], out: Path) -> Stage:
    job = str(settings.pop("job", name)).replace("_", "-")
    if job not in JOBS:
        raise BadConfigError(f"{file}: stage {name} has the job {job!r}; {did_you_mean(job, JOBS)}")
    _, module, schema = JOBS[job]
    publish = settings.pop("publish", None)
    settings = {str(key).replace("-", "_"): value for key, value in settings.items()}
    settings.setdefault("out", out / name)
    try:
        config: Config = validate(getattr(importlib.import_module(module), schema), settings)
    except BadConfigError as error:
        raise BadConfigError(f"{file}: stage {name}: {error}") from error
    place = None if publish is None else file.parent / str(publish)
    return Stage(name=name, job=job, config=config, out=config.out, publish=place)  # type: ignore[attr-defined]


def _check_folders(file: Path, stages: Sequence[Stage], out: Path) -> None:
    """Every stage has a folder for itself, and the record of the run too."""
    taken = {(out / name).absolute(): "the record of the run" for name in ("stages", "tasks")}
    for stage in stages:
        other = taken.setdefault(stage.out.absolute(), f"stage {stage.name}")
        if other != f"stage {stage.name}":
            raise BadConfigError(
                f"{file}: stage {stage.name} would fill {stage.out}, the folder of {other}; give it another name or out"
            )


def _change(known: dict[str, str], stages: dict[str, dict[str, Any]], changes: Mapping[str, str]) -> None:
    for where, text in changes.items():
        stage, dot, key = where.partition(".")
        if not dot and where in known:
            known[where] = text
        elif dot and stage in stages:
            stages[stage][key] = read_value(text, where)
        else:
            names = [*known, *(f"{name}.SETTING" for name in stages)]
            raise BadConfigError(f"there is no {where!r} to set; {did_you_mean(where, names)}")


def _filled(value: Any, known: Mapping[str, str], where: str) -> Any:
    """`value` with `${NAME}` replaced in every text within it."""
    if isinstance(value, dict):
        return {key: _filled(item, known, where) for key, item in value.items()}
    if isinstance(value, list):
        return [_filled(item, known, where) for item in value]
    if not isinstance(value, str):
        return value
    try:
        return Template(value).substitute(known)
    except KeyError as error:
        name = str(error.args[0])
        raise BadConfigError(f"{where} uses ${{{name}}}; {did_you_mean(name, known)}") from error
    except ValueError as error:
        raise BadConfigError(
            f"{where}: {value!r} has a $ that starts no ${{NAME}}; write $$ for a plain one"
        ) from error
