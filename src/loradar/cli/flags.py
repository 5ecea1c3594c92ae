"""Commands: flags out of a schema with the same checks as a file, help with an example, and --json."""

import inspect
from collections.abc import Callable, Iterator
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, Literal, TypeVar, Union, get_args, get_origin

import typer
from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined
from typer.models import OptionInfo

from loradar.cli.help import Command
from loradar.cli.panels import panel_of
from loradar.cli.printing import Output, show, show_json
from loradar.core.config import read_file, validate
from loradar.core.torchrun import launched

S = TypeVar("S", bound=BaseModel)
_Run = TypeVar("_Run", bound=Callable[..., Output | None])

ATTACKS = ("fgsm", "pgd", "mi-fgsm", "roa", "fia", "pyramid", "noise", "msd", "autoattack")
"""Names for the help, which is not to import torch. A test holds them against the registry."""
_UNBOUNDED = 2**31
_JSON = Annotated[bool, typer.Option("--json", help="Print JSON to standard output.", rich_help_panel="Output")]
_CONFIG = Annotated[
    Path | None,
    typer.Option(
        "--config",
        metavar="FILE",
        help="YAML or TOML file of these settings; flags take precedence.",
        rich_help_panel="Other",
    ),
]


Key = Annotated[
    Path | None, typer.Option(metavar="PATH", help="Public key; a folder that its owner did not sign is refused.")
]
"""Of commands that open a folder: see `adapters keygen`."""


class Interrupted(Exception):  # noqa: N818
    """Ctrl-C during a command; the text says how to go on."""


def command(
    app: typer.Typer,
    name: str,
    schema: type[S],
    *,
    example: str,
    positional: str = "",
    resumes: bool = False,
    more: str = "",
) -> Callable[[Callable[[S], Output]], Callable[[S], Output]]:
    """Registers a function of `schema` under `name`: a flag for each field, `--config` for a file of them, and `--json`.

    `resumes` says that a second run of the same command goes on where an interrupted one stopped. `more` is put behind the
    function's docstring in the help.
    """

    def register(run: Callable[[S], Output]) -> Callable[[S], Output]:
        def call(config: Path | None = None, **flags: Any) -> Output:
            given = {key: value for key, value in flags.items() if value is not None and value != []}
            return run(validate(schema, {**(read_file(config) if config else {}), **given}))

        parameters = [_flag(key, schema, positional=key == positional) for key in schema.model_fields]
        parameters.sort(key=lambda p: p.name != positional)
        _register(
            app,
            name,
            call,
            [*parameters, _parameter("config", _CONFIG)],
            f"{inspect.getdoc(run)}\n\n{more}".strip(),
            example,
            resumes=resumes,
        )
        return run

    return register


def plain_command(app: typer.Typer, name: str, *, example: str, resumes: bool = False) -> Callable[[_Run], _Run]:
    """Registers a function under `name`, its parameters as typer reads them, with `--json` where it returns an Output."""

    def register(run: _Run) -> _Run:
        signature = inspect.signature(run, eval_str=True)
        takes_json = signature.return_annotation is not None
        parameters = list(signature.parameters.values())
        _register(app, name, run, parameters, inspect.getdoc(run), example, takes_json=takes_json, resumes=resumes)
        return run

    return register


def _register(
    app: typer.Typer,
    name: str,
    run: Callable[..., Output | None],
    parameters: list[inspect.Parameter],
    text: str | None,
    example: str,
    *,
    takes_json: bool = True,
    resumes: bool = False,
) -> None:
    def call(**values: Any) -> None:
        as_json = values.pop("as_json", False)
        try:
            output = run(**values)
        except KeyboardInterrupt as error:
            ending = " Run the same command to resume." if resumes else ""
            raise Interrupted(f"Interrupted.{ending}") from error
        if launched().rank:  # what several processes did together is said once
            return
        if output is not None and as_json:
            show_json(output.data)
        elif output is not None:
            show(*output.text)

    for parameter in parameters:
        for information in get_args(parameter.annotation)[1:]:
            if isinstance(information, OptionInfo) and information.rich_help_panel is None:
                information.rich_help_panel = panel_of(parameter.name)
    if takes_json:
        parameters = [*parameters, _parameter("as_json", _JSON, default=False)]
    call.__signature__ = inspect.Signature(  # type: ignore[attr-defined]
        [parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY) for parameter in parameters]
    )
    call.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    app.command(name, cls=Command, help=text, epilog=example)(call)


def _flag(key: str, schema: type[BaseModel], *, positional: bool) -> inspect.Parameter:
    """A field as a flag without a default of its own: what is not given is left to the file, then to the schema."""
    field = schema.model_fields[key]
    base = _base_type(field)
    kind: Any = list[str] if get_origin(base) is list else bool if base is bool else str
    known = f"Names: {', '.join(ATTACKS)}; `loradar attacks list` says more. " if key == "attacks" else ""
    text = f"{field.description} {known}{_constraints(field)}".strip()
    if positional:
        # not required here: it may stand in the file, and the schema asks for it otherwise
        argument = typer.Argument(help=text, show_default=False, metavar=key.upper())
        return _parameter(key, Annotated[kind | None, argument])
    flag = f"--{key.replace('_', '-')}"
    names = [f"{flag}/--no-{flag[2:]}"] if kind is bool else [flag]
    extra = field.json_schema_extra if isinstance(field.json_schema_extra, dict) else {}
    panel = str(extra["panel"]) if "panel" in extra else panel_of(key, schema.model_fields)
    option = typer.Option(*names, help=text, show_default=False, metavar=_metavar(base), rich_help_panel=panel)
    return _parameter(key, Annotated[kind | None, option])


def _parameter(name: str, annotation: Any, default: object = None) -> inspect.Parameter:
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation)


def _base_type(field: FieldInfo) -> Any:
    """The annotation without `| None`; text for what may be of several types."""
    if get_origin(field.annotation) in (Union, UnionType):
        first, *others = (part for part in get_args(field.annotation) if part is not type(None))
        is_several = get_origin(first) is Annotated and get_origin(get_args(first)[0]) in (Union, UnionType)
        return str if others or is_several else first
    return field.annotation


def _item_type(base: Any) -> Any:
    return get_args(base)[0] if get_origin(base) is list else base


def _metavar(base: Any) -> str | None:
    item = _item_type(base)
    if get_origin(item) is Annotated:
        return "SIZE"
    return {bool: None, int: "N", float: "X", Path: "PATH"}.get(
        item, "CHOICE" if get_origin(item) is Literal else "TEXT"
    )


def _constraints(field: FieldInfo) -> str:
    """What a value may be, and what it is by default: `[1 or more; default: 4]`."""
    base = _base_type(field)
    item = _item_type(base)
    parts = []
    if field.is_required():
        parts.append("required")
    if get_origin(item) is Literal:
        *most, last = get_args(item)
        parts.append(f"{', '.join(most)} or {last}")
    if get_origin(item) is Annotated:
        parts.append("bytes, kB, MB, KiB or MiB" if get_args(item)[0] is int else "N or HEIGHTxWIDTH")
    if item in (int, float):
        parts.append(", ".join(_bounds(field, item)))
    if get_origin(base) is list:
        parts.append("may be repeated")
    default = field.get_default(call_default_factory=True)
    if default not in (PydanticUndefined, None, []):
        parts.append(f"default: {_plain(default)}")
    return f"[{'; '.join(parts)}]" if parts else ""


def _bounds(field: FieldInfo, item: type) -> Iterator[str]:
    limits = {
        name: getattr(part, name)
        for part in field.metadata
        for name in ("gt", "ge", "lt", "le")
        if getattr(part, name, None) is not None and abs(getattr(part, name)) < _UNBOUNDED
    }
    low = f"{limits['ge']:g}" if "ge" in limits else ""
    if low and "le" in limits:
        yield f"{low} to {limits['le']:g}"
    elif low and "lt" in limits:
        yield f"{low} to below {limits['lt']:g}"
    elif "lt" in limits or "le" in limits:
        upper = f"below {limits['lt']:g}" if "lt" in limits else f"at most {limits['le']:g}"
        yield f"above {limits['gt']:g}, {upper}" if "gt" in limits else upper
    elif low:
        yield f"{low} or more"
    elif "gt" in limits:
        yield f"above {limits['gt']:g}"
    else:
        yield "a whole number" if item is int else "a number"


def _plain(default: object) -> str:
    if isinstance(default, list):
        return " ".join(_plain(item) for item in default)
    if isinstance(default, bool):
        return "on" if default else "off"
    return str(default)
