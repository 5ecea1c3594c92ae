"""A command's flags out of its schema: what a file may say, a flag may say too, and both meet the same checks."""

import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, TypeVar

import typer
from pydantic import BaseModel
from pydantic_core import PydanticUndefined

from loradar.core.config import read_file, validate

S = TypeVar("S", bound=BaseModel)


def command(
    app: typer.Typer, name: str, schema: type[S], *, positional: str = ""
) -> Callable[[Callable[[S], None]], Callable[[S], None]]:
    """Registers a function of `schema` under `name`: a flag for each field, and `--config` for a file of them."""

    def register(run: Callable[[S], None]) -> Callable[[S], None]:
        def call(config: Path | None = None, **flags: Any) -> None:
            given = {key: value for key, value in flags.items() if value is not None and value != []}
            run(validate(schema, {**(read_file(config) if config else {}), **given}))

        parameters = [_flag(key, schema, positional=key == positional) for key in schema.model_fields]
        parameters.sort(key=lambda p: p.name != positional)
        file = typer.Option("--config", help="YAML or TOML file of these settings; flags win.")
        parameters.append(_parameter("config", Annotated[Path | None, file]))
        call.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
        call.__annotations__ = {p.name: p.annotation for p in parameters}
        app.command(name, help=inspect.getdoc(run))(call)
        return run

    return register


def _flag(key: str, schema: type[BaseModel], *, positional: bool) -> inspect.Parameter:
    """A field as a flag without a default of its own: what is not given is left to the file, then to the schema."""
    field = schema.model_fields[key]
    kind: Any = str
    annotation = str(field.annotation)
    if field.annotation is bool:
        kind = bool
    elif "list" in annotation:
        kind = list[str]
    default = field.get_default(call_default_factory=True)
    shown = "" if default in (PydanticUndefined, None, []) else f" [default: {_plain(default)}]"
    text = f"{field.description}{shown}"
    if positional:
        # not required here: it may stand in the file, and the schema asks for it otherwise
        return _parameter(key, Annotated[kind | None, typer.Argument(help=text, show_default=False)])
    flag = f"--{key.replace('_', '-')}"
    names = [f"{flag}/--no-{flag[2:]}"] if kind is bool else [flag]
    return _parameter(key, Annotated[kind | None, typer.Option(*names, help=text, show_default=False)])


def _plain(default: object) -> str:
    if isinstance(default, list):
        return " ".join(str(item) for item in default)
    return str(default).lower() if isinstance(default, bool) else str(default)


def _parameter(name: str, annotation: Any) -> inspect.Parameter:
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=annotation)
