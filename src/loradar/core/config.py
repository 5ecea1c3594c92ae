"""Settings of commands: the base schema, config files, and one-line errors. Imports no torch, so that help is instant."""

import json
import re
import reprlib
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, TypeAlias, TypeVar

import yaml
from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    ValidationInfo,
    field_validator,
)
from pydantic_core import PydanticCustomError

from loradar.core.errors import BadConfigError, did_you_mean
from loradar.core.files import parse_object, read_regular, write_atomically
from loradar.core.names import RUN

Count = int | None

BASE = "The model: FOLDER, torchvision:NAME, timm:NAME, hub:OWNER/NAME or FILE:architecture=NAME,num_classes=N."
DATA = (
    "The images: digits (built in), an image folder, parquet files, a CIFAR-10 folder, hub:OWNER/NAME, "
    "meta-dataset:FOLDER:split=test, cifar-c:FOLDER:corruption=fog,severity=3, isic:FOLDER or chestx:FOLDER."
)
MAX_TEST_IMAGES = (
    "Images to report on: the first of the test split. Default: at most 1,000; a fifth of all images where there is no "
    "test split."
)
CACHE = "Folder that keeps attacked images between runs."
BATCH_SIZE = "Images per forward pass."
DEVICE = "auto, cpu, cuda, cuda:1 or mps. auto takes a GPU where there is one."
EFFORT = (
    "How hard adaptive figures are tried. A figure is the worst over a battery of attacks: quick, standard (nearly what "
    "full finds), or full (several times the time)."
)
REPORT_FOLDER = "Folder for report.json, report.md and report.html."
"""Descriptions of fields that several commands share."""

_LARGEST = 2**63 - 1
_MOST_VALUES = 10_000
_TOO_MANY = f"its aliases stand for more than {_MOST_VALUES:,} values"


def _read_size(value: object) -> object:
    """Reads `64` and `48x64`; anything else is left to the schema."""
    sides = re.fullmatch(r"([0-9]{1,5})(?:x([0-9]{1,5}))?", str(value)) if isinstance(value, int | str) else None
    if sides is not None:
        return int(sides[1]), int(sides[2] or sides[1])
    if isinstance(value, int | str):
        raise PydanticCustomError("size", "expected N or HEIGHTxWIDTH in pixels, for example 224 or 128x160")
    return value


Pixels = Annotated[int, Field(ge=1)]
Size: TypeAlias = Annotated[tuple[Pixels, Pixels], BeforeValidator(_read_size)]
"""(height, width) in pixels. Flags and files write it as N or HEIGHTxWIDTH."""


def _check_device(name: str) -> str:
    if not re.fullmatch(r"auto|cpu|mps|(cuda|xpu)(:[0-9]{1,3})?", name):
        raise PydanticCustomError("device", "expected auto, cpu, mps, cuda or cuda:N")
    return name


Device: TypeAlias = Annotated[str, AfterValidator(_check_device)]
"""`auto` or a kind of processor that torch computes on; whether it is there is seen when the model is opened."""


Effort: TypeAlias = Literal["quick", "standard", "full"]
"""How hard the battery of an adaptive figure tries (see `loradar.evaluation.battery`)."""


def default_cache() -> Path:
    """`~/.cache/loradar`, or `runs/cache` for a user without a home folder."""
    folder = Path("~/.cache/loradar")
    try:
        folder.expanduser()
    except RuntimeError:
        return Path("runs/cache")
    return folder


class Settings(BaseModel):
    """Settings of any command: unknown keys, infinite numbers and truth values for numbers are refused."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    @field_validator("*", mode="before")
    @classmethod
    def _refuse_odd_values(cls, value: object, info: ValidationInfo) -> object:
        is_flag = cls.model_fields[info.field_name or ""].annotation is bool
        for item in value if isinstance(value, list | tuple) else [value]:
            # YAML reads yes as true, and pydantic would take that for 1
            if isinstance(item, bool) and not is_flag:
                raise PydanticCustomError("truth", "expected a number or text (quote it where it is a word)")
            if isinstance(item, str | Path) and "\0" in str(item):
                raise PydanticCustomError("nul", "expected text without NUL characters")
        return value

    @field_validator("*", mode="after")
    @classmethod
    def _refuse_huge_numbers(cls, value: object) -> object:
        if isinstance(value, int) and abs(value) > _LARGEST:
            raise PydanticCustomError("huge", "expected a number of at most 18 digits")
        return value


class Config(Settings):
    """Settings of every command that trains or measures."""

    precision: Literal["auto", "fp32", "bf16"] = Field(
        "auto", description="Number format to compute in. auto takes bf16 where the hardware is faster in it."
    )
    device: Device = Field("auto", description=DEVICE)
    seed: int = Field(0, ge=0, description="Seed of the splits, the initialization, the order and the augmentation.")

    @field_validator("*", mode="after")
    @classmethod
    def _refuse_what_json_cannot_hold(cls, value: object) -> object:
        for item in value if isinstance(value, list | tuple) else [value]:
            if isinstance(item, str | Path) and _has_surrogates(str(item)):
                raise PydanticCustomError("surrogates", "expected text and names of files in UTF-8")
        return value


class RunConfig(Config):
    """Settings of every command that fills an out folder, which one run holds at a time."""

    wait: bool = Field(
        False, exclude=True, description="Wait for another run to leave the out folder. Without it, that is refused."
    )


def _has_surrogates(text: str) -> bool:
    """Whether a text has code points that no encoding writes: names of files that are no UTF-8 reach us so."""
    return any("\ud800" <= letter <= "\udfff" for letter in text)


C = TypeVar("C", bound=BaseModel)


class _Loader(yaml.SafeLoader):
    """Refuses a key that stands twice in one table: PyYAML would take the last in silence."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        names = [key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode)]
        for index, name in enumerate(names):
            if name in names[:index]:
                raise yaml.YAMLError(f"the key {_shorten(name, 60)!r} stands twice in one table")
        return super().construct_mapping(node, deep)

    def flatten_mapping(self, node: yaml.MappingNode) -> None:
        super().flatten_mapping(node)
        if len(node.value) > _MOST_VALUES:  # merges (<<) of merges
            raise yaml.YAMLError(_TOO_MANY)


def _load_yaml(text: str) -> Any:
    """Raises YAMLError, ValueError, RecursionError, also where a few nested aliases stand for millions of values."""
    content = yaml.load(text, _Loader)
    if _size(content, {}) > _MOST_VALUES:
        raise yaml.YAMLError(_TOO_MANY)
    return content


def _size(value: object, sizes: dict[int, int]) -> int:
    """Counts the values within `value`; `sizes` has those of tables and lists that were counted, by id."""
    if not isinstance(value, dict | list):
        return 1
    if id(value) not in sizes:
        sizes[id(value)] = _MOST_VALUES  # of a list within itself, which has no end
        within = value.values() if isinstance(value, dict) else value
        sizes[id(value)] = 1 + sum(_size(each, sizes) for each in within)
    return sizes[id(value)]


def read_file(path: Path) -> dict[str, Any]:
    """The settings of a YAML or TOML file. Raises BadConfigError where it is neither."""
    try:
        text = read_regular(path).decode()
        content = tomllib.loads(text) if path.suffix == ".toml" else _load_yaml(text)
    except (OSError, ValueError, RecursionError, yaml.YAMLError) as error:
        reason = _shorten(" ".join(str(error).split()), 300)
        raise BadConfigError(
            f"config {path} cannot be read: {reason}; expected YAML, or TOML in a .toml file"
        ) from error
    if content is None:
        return {}
    if not isinstance(content, dict):
        raise BadConfigError(f"config {path} holds {type(content).__name__}; expected a table of settings (key: value)")
    return {str(key).replace("-", "_"): value for key, value in content.items()}


def read_value(text: str, name: str) -> Any:
    """The value of `name` that is written as YAML. Raises BadConfigError where it is none."""
    try:
        return _load_yaml(text)
    except (ValueError, RecursionError, yaml.YAMLError) as error:
        reason = _shorten(" ".join(str(error).split()), 300)
        raise BadConfigError(
            f"{name} is {shown(text)}, which cannot be read: {reason}; expected a YAML value"
        ) from error


def validate(schema: type[C], settings: Mapping[str, Any]) -> C:
    """`settings` checked against `schema`. Raises BadConfigError: one line, with the nearest key for an unknown one."""
    try:
        return schema(**settings)
    except ValidationError as error:
        lines = dict.fromkeys(_line(schema, dict(e)) for e in error.errors()[:3])
        raise BadConfigError("; ".join(lines)) from error


def _line(schema: type[BaseModel], error: dict[str, Any]) -> str:
    key = _shorten(str(error["loc"][0]), 60) if error["loc"] else ""
    if error["type"] == "extra_forbidden":
        return f"unknown config key {key!r}; {did_you_mean(key, schema.model_fields)}"
    if error["type"] == "missing":
        text = (schema.model_fields[key].description or "").rstrip(".")
        return f"{key} is missing; expected {text[:1].lower()}{text[1:]}"
    reason = f"{error['msg'][:1].lower()}{error['msg'][1:]}"
    return f"{key} is {shown(error['input'])}; {reason}" if key else reason


def shown(value: object) -> str:
    """The repr of a value, at most 120 characters: nested YAML aliases can stand for gigabytes."""
    short = reprlib.Repr()
    short.maxstring = short.maxother = 80
    short.maxlevel = 2
    try:
        return _shorten(short.repr(value), 120)
    except ValueError:  # an integer of more digits than Python converts
        return "a number of thousands of digits"


def _shorten(text: str, most: int) -> str:
    return text if len(text) <= most else f"{text[:most]}..."


def check_run_settings(config: Config, *free: str) -> None:
    """Claims the out folder for this run.

    Raises BadConfigError where the folder holds a run with other settings; those named in `free` may differ.
    """
    out: Path = config.out  # type: ignore[attr-defined]
    path = out / RUN
    now = json.loads(config.model_dump_json(exclude={"out", "cache", "device", *free}))
    if path.exists():
        before = _read_run(path)
        odd = [key for key in now if before.get(key) != now[key]]
        if odd:
            raise BadConfigError(
                f"{out} holds a run with {odd[0]} = {shown(before.get(odd[0]))}, now {shown(now[odd[0]])}; choose another "
                "--out, or delete that folder"
            )
    write_atomically(path, json.dumps(now, indent=2).encode())


def _read_run(path: Path) -> dict[str, Any]:
    try:
        return parse_object(read_regular(path))
    except (OSError, ValueError) as error:
        raise BadConfigError(f"{path} cannot be read ({error}); choose another --out, or delete that folder") from error
