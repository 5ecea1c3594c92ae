"""Settings of `loradar run`, `plan`, `status` and `cancel`. Imports no torch, so that help is instant."""

from pathlib import Path
from typing import Literal

from pydantic import Field

from loradar.core.config import Settings

Engine = Literal["local", "processes", "ray", "slurm"]


class FileConfig(Settings):
    """A file of stages, and what is changed in it."""

    file: Path = Field(
        ..., description="YAML file of stages, {NAME: {job: COMMAND, SETTING: ...}}; experiments/ has some."
    )
    only: list[str] = Field([], description="Take this stage alone; what it reads is to be there.")
    set: list[str] = Field(
        [], description="NAME=VALUE: change a variable, out, or a setting of a stage (STAGE.KEY=VALUE)."
    )


class RunFileConfig(FileConfig):
    """Runs the stages of a file, here or on an engine."""

    on: Engine = Field(
        "local",
        description="local: one stage after the other, in this process. processes, ray, slurm: stages, and their trainings and "
        "shards, at one time; every machine sees the same disk.",
    )
    workers: int | None = Field(
        None,
        ge=1,
        le=4096,
        description="Tasks at one time, for processes and for Ray on this machine. Default: the cores.",
    )
    ray: str | None = Field(
        None,
        description="Address of a running Ray cluster, or auto. Default: Ray on this machine, while the command runs.",
        json_schema_extra={"panel": "Engine"},
    )
    cpus: float = Field(
        1.0, gt=0, description="Cores that Ray and Slurm reserve for a task; Ray takes shares of one, too."
    )
    gpus: float = Field(
        0.0, ge=0, description="GPUs that Ray and Slurm reserve for a task; Ray takes shares of one, too."
    )
    memory_gb: float | None = Field(None, gt=0, description="Memory that Ray and Slurm reserve for a task.")
    slurm: list[str] = Field(
        [], description="NAME=VALUE for Slurm, as submitit takes it: timeout_min=240, slurm_partition=gpu."
    )
    threads: int | None = Field(
        None,
        ge=1,
        le=4096,
        description="Threads of each task. Other numbers round otherwise, so bits differ. Default: local takes them all, "
        "the others 1.",
    )
    store: str | None = Field(
        None,
        description="URI (s3://bucket/folder) for machines without a common disk: a task fetches from there what it needs and "
        "leaves there what it made. The file's data and bases are then URIs or names, too.",
    )
    retries: int = Field(3, ge=0, le=1000, description="How often a task is begun again whose process died.")


class RunFolderConfig(Settings):
    """The out folder of a run."""

    out: Path = Field(
        ..., description="The out folder of `loradar run`: the file's `out`, or runs/ and the file's name."
    )
