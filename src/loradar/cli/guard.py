"""`loradar guard`: build, audit, classify, watch."""

import dataclasses
import json
import time
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from rich.console import Console
from rich.live import Live
from rich.table import Table

from loradar.cli.flags import command
from loradar.core.errors import BadDataError, BadFileError
from loradar.guard.config import GuardAuditConfig, GuardBuildConfig

if TYPE_CHECKING:
    from loradar.guard.monitor import Event
    from loradar.guard.traffic import Finding, Traffic

guard = typer.Typer(
    no_args_is_help=True,
    help="One classifier out of a base and its adapters: they vote, an identifier names the attack, a policy responds.",
)
out, err = Console(), Console(stderr=True)
_SHOWN = 20
Held = Literal["calm", "raised"]

_Folder = Annotated[Path, typer.Option("--guard", help="A guard's folder, as `guard build` writes it.")]
_Base = Annotated[str | None, typer.Option(help="The base, where it is no longer where the guard was built with it.")]
_Level = Annotated[Held | None, typer.Option(help="Hold this level of alarm. Default: the traffic decides.")]


@command(guard, "build", GuardBuildConfig, positional="base")
def _build(config: GuardBuildConfig) -> None:
    """Calibrate a base's adapters, fit the identifier of their attacks, and write the guard's folder."""
    from loradar.cli.progress import watching
    from loradar.guard.build import resolve, run

    with watching(err) as progress:
        folder = run(resolve(config), progress=progress).folder
    out.print(f"guard: {folder}\nnext:  loradar guard audit {folder} --data {config.data}", soft_wrap=True)


@command(guard, "audit", GuardAuditConfig, positional="guard")
def _audit(config: GuardAuditConfig) -> None:
    """Attack a guard as a whole, and each of its adapters alone, by transfer and adaptively; write the report."""
    from loradar.cli.progress import watching
    from loradar.cli.show import summary
    from loradar.guard.audit import resolve, run

    with watching(err) as progress:
        page = run(resolve(config), progress=progress).page
    out.print(summary(page.parent))
    out.print(f"report: {page}", soft_wrap=True)


@guard.command("classify")
def _classify(
    images: Annotated[list[Path], typer.Argument(help="Image files.", show_default=False)],
    folder: _Folder = Path("runs/guard"),
    base: _Base = None,
    level: _Level = "calm",
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON, an object for each image.")] = False,
) -> None:
    """Classify images: each adapter's word, the vote, the suspected attack, and what was done about it."""
    from loradar.guard.traffic import classify

    findings = [found for found, _ in classify(_open(folder, base, level), images)]
    if as_json:
        typer.echo(json.dumps([dataclasses.asdict(found) for found in findings], indent=2))
    else:
        out.print(_table(findings))


@guard.command("watch")
def _watch(
    incoming: Annotated[Path, typer.Argument(help="A folder that images arrive in.", show_default=False)],
    folder: _Folder = Path("runs/guard"),
    base: _Base = None,
    level: _Level = None,
    window: Annotated[int, typer.Option(min=1, help="Images that the level of alarm is decided on.")] = 200,
    events: Annotated[
        Path | None, typer.Option(help="Append each decision to this file, a JSON object a line.")
    ] = None,
    every: Annotated[float, typer.Option(min=0.05, help="Seconds between looks into the folder.")] = 1.0,
    once: Annotated[bool, typer.Option("--once", help="Stop when the folder holds nothing new.")] = False,
) -> None:
    """Classify images as they arrive in a folder, the level of alarm following the traffic. Stop with Ctrl-C."""
    from loradar.guard.traffic import pictures_below

    pictures_below(incoming)
    if events is not None:
        _append(events, "")  # what cannot be written is said now, not at the first alarm
    traffic = _open(folder, base, level, window)
    if not out.is_terminal:
        for found, decided in _stream(traffic, incoming, every, once):
            out.print(_line(found), soft_wrap=True, highlight=False, markup=False)
            _note(decided, events)
        return
    recent: deque[Finding] = deque(maxlen=_SHOWN)
    with Live(console=out, refresh_per_second=8) as live:
        for found, decided in _stream(traffic, incoming, every, once):
            recent.append(found)
            _note(decided, events)
            live.update(_table(recent, title=_state(traffic)))


def _open(folder: Path, base: str | None, level: Held | None, window: int = 200) -> "Traffic":
    from loradar.guard.guard import Guard
    from loradar.guard.traffic import open_traffic

    return open_traffic(Guard.open(folder, base=base), fixed=level, window=window)


def _stream(traffic: "Traffic", incoming: Path, every: float, once: bool) -> "Iterator[tuple[Finding, list[Event]]]":
    """Findings as files come; one that cannot be read is said on standard error and passed over."""
    from loradar.guard.traffic import classify, pictures_below

    done: set[Path] = set()
    while True:
        fresh = [path for path in pictures_below(incoming) if path not in done]
        for path in fresh:
            done.add(path)
            try:
                yield from classify(traffic, [path])
            except BadDataError as error:
                err.print(f"passed over: {error}", style="yellow", markup=False, highlight=False, soft_wrap=True)
        if once and not fresh:
            return
        if not fresh:
            time.sleep(every)


def _note(decided: "list[Event]", place: Path | None) -> None:
    for event in decided:
        if place is not None:
            _append(place, json.dumps(dataclasses.asdict(event)) + "\n")
        if event.kind != "defended":
            err.print(f"{event.kind}: {event.reason}", style="bold", markup=False, highlight=False, soft_wrap=True)


def _append(place: Path, text: str) -> None:
    try:
        with place.open("a", encoding="utf-8") as file:
            file.write(text)
    except OSError as error:
        raise BadFileError(f"could not write {place}: {error.strerror or error}; choose another file") from error


def _state(traffic: "Traffic") -> str:
    monitor = traffic.monitor
    counts = ", ".join(f"{name} {count}" for name, count in monitor.counts.items())
    return f"level {monitor.level}, {monitor.seen} images, {monitor.share:.0%} suspected ({counts})"


def _table(findings: "Any", title: str | None = None) -> Table:
    rows = list(findings)
    voters = list(rows[0].voters) if rows else []
    heads = ["image", "answer", *voters, "suspected", "defenses", "forwards"]
    table = Table(*heads, box=None, header_style="bold", title=title, title_justify="left")
    for found in rows:
        votes = (found.voters[name] for name in voters)
        table.add_row(
            Path(found.image).name,
            f"{found.answer} {found.confidence:.0%}",
            *(f"{vote[0]} {vote[1]:.0%}" if vote else "-" for vote in votes),
            f"{found.suspected} {found.probability:.0%}",
            ", ".join(found.defenses) or "-",
            f"{found.passes:.2f}",
        )
    return table


def _line(found: "Finding") -> str:
    defenses = ", ".join(found.defenses) or "nothing"
    return (
        f"{found.image}: {found.answer} ({found.confidence:.0%}), suspected {found.suspected} ({found.probability:.0%}), "
        f"done {defenses}, level {found.level}"
    )
