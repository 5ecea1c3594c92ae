"""Settings of commands: the base schema, config files, and one-line errors. Imports no torch, so that help is instant."""

import json
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, ValidationInfo, field_validator
from pydantic_core import PydanticCustomError

from loradar.core.errors import BadConfigError, did_you_mean
from loradar.core.files import write_atomically
from loradar.core.names import RUN

Count = int | None


class Config(BaseModel):
    """What every command that computes has."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    precision: Literal["auto", "fp32", "bf16"] = Field("auto", description="auto: bf16 where the hardware is faster.")
    device: str = Field("auto", description="auto, cpu, cuda, cuda:1, mps.")
    seed: int = Field(0, description="Seeds the splits, the start, the order and the augmentation.")

    @field_validator("*", mode="before")
    @classmethod
    def _no_truth_for_a_number(cls, value: object, info: ValidationInfo) -> object:
        # YAML reads yes as true, and pydantic would take that for 1
        if isinstance(value, bool) and cls.model_fields[info.field_name or ""].annotation is not bool:
            raise PydanticCustomError("truth", "expected a number or text (quote it where it is a word)")
        return value


C = TypeVar("C", bound=BaseModel)


def read_file(path: Path) -> dict[str, Any]:
    """The settings of a YAML or TOML file. Raises BadConfigError where it is neither."""
    try:
        text = path.read_text()
        found = tomllib.loads(text) if path.suffix == ".toml" else yaml.safe_load(text)
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError, yaml.YAMLError) as error:
        line = " ".join(str(error).split())
        raise BadConfigError(f"config {path} cannot be read: {line}; expected YAML, or TOML in a .toml file") from error
    if found is None:
        return {}
    if not isinstance(found, dict):
        raise BadConfigError(f"config {path} holds {type(found).__name__}; expected a table of settings (key: value)")
    return {str(key).replace("-", "_"): value for key, value in found.items()}


def validate(schema: type[C], settings: Mapping[str, Any]) -> C:
    """`settings` held against `schema`. Raises BadConfigError: one line, with the nearest key for an unknown one."""
    try:
        return schema(**settings)
    except ValidationError as error:
        raise BadConfigError("; ".join(_line(schema, dict(e)) for e in error.errors()[:3])) from error


def _line(schema: type[BaseModel], error: dict[str, Any]) -> str:
    key = str(error["loc"][0]) if error["loc"] else ""
    if error["type"] == "extra_forbidden":
        return f"unknown config key {key!r}; {did_you_mean(key, schema.model_fields)}"
    if error["type"] == "missing":
        return f"{key} is missing; {schema.model_fields[key].description}"
    return f"{key} is {error['input']!r}; {error['msg'].lower()}"


def check_run_settings(config: Config, *free: str) -> None:
    """Takes the out folder for this run. Raises BadConfigError where it holds one with other settings than the `free`."""
    out: Path = config.out  # type: ignore[attr-defined]
    path = out / RUN
    now = json.loads(config.model_dump_json(exclude={"out", "cache", "device", *free}))
    if path.exists():
        before = json.loads(path.read_text())
        odd = [key for key in now if before.get(key) != now[key]]
        if odd:
            raise BadConfigError(
                f"{out} holds a run with {odd[0]} = {before.get(odd[0])!r}, now {now[odd[0]]!r}; choose another "
                "--out, or delete that folder"
            )
    write_atomically(path, json.dumps(now, indent=2).encode())
