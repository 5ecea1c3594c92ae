"""`loradar guard`: build, audit, classify, watch."""

import dataclasses
import json
import time
from collections import deque
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer
from rich.live import Live

from loradar.cli.flags import Key, command, plain_command
from loradar.cli.help import Group
from loradar.cli.printing import Output, Rows, console, note, show
from loradar.core.errors import BadDataError, BadFileError
from loradar.guard.config import GuardAuditConfig, GuardBuildConfig

if TYPE_CHECKING:
    from loradar.guard.monitor import Event
    from loradar.guard.traffic import Finding, Traffic

guard = typer.Typer(
    cls=Group,
    rich_markup_mode=None,
    help="One classifier made of a base and its adapters: they vote, attacks are identified, a policy responds.",
    epilog="loradar guard classify photo.png --guard runs/guard",
)
_SHOWN = 20
Held = Literal["calm", "raised"]

_Folder = Annotated[
    Path,
    typer.Option("--guard", metavar="PATH", help="Folder of a guard, as `guard build` writes it, or hub:OWNER/NAME."),
]
_Base = Annotated[
    str | None, typer.Option(metavar="TEXT", help="The base, where it has moved since the guard was built.")
]
_Level = Annotated[
    Held | None,
    typer.Option(metavar="CHOICE", help="Fix the level of alarm: calm or raised. Default: the traffic decides."),
]


@command(
    guard,
    "build",
    GuardBuildConfig,
    positional="base",
    resumes=True,
    example="loradar guard build runs/demo/base --adapter runs/demo/harden/adapters/pgd --attacks pgd",
)
def _build(config: GuardBuildConfig) -> Output:
    """Calibrate a base's adapters, fit the identifier of their attacks, and write the guard's folder."""
    from loradar.cli.progress import watching
    from loradar.guard.build import resolve, run

    with watching(console(stderr=True)) as progress:
        result = run(resolve(config), progress=progress)
    folder, record = result.folder, result.guard.state.record
    misses = ", ".join(f"{name} {missed} of {total}" for name, (missed, total) in record.misses.items())
    chosen = [record.choice.reason] if record.choice else []
    return Output(
        text=[
            f"guard: {folder}, answered by {record.settings.rule}",
            *chosen,
            f"false alarms: {config.max_fpr:.1%} at most expected, on every kind of benign traffic that it was calibrated on",
            f"misses, held-out images under attacks on the base that are named clean: {misses}",
            f"next:  loradar guard audit {folder} --data {config.data}",
        ],
        data={"guard": folder, "answered_by": record.settings.rule, "misses": record.misses},
    )


@command(
    guard,
    "audit",
    GuardAuditConfig,
    positional="guard",
    resumes=True,
    example="loradar guard audit runs/guard --data path/to/images --max-adaptive-images 100",
)
def _audit(config: GuardAuditConfig) -> Output:
    """Attack a guard as a whole, and each of its adapters alone, by transfer and adaptively; write the report."""
    from loradar.cli.progress import watching
    from loradar.cli.show import summary
    from loradar.guard.audit import resolve, run

    with watching(console(stderr=True)) as progress:
        page = run(resolve(config), progress=progress).page
    return summary(page)


@plain_command(guard, "classify", example="loradar guard classify photo.png --guard runs/guard")
def _classify(
    images: Annotated[list[Path], typer.Argument(metavar="IMAGES", help="Image files.", show_default=False)],
    folder: _Folder = Path("runs/guard"),
    base: _Base = None,
    level: _Level = "calm",
    key: Key = None,
) -> Output:
    """Classify images: each adapter's prediction, the vote, the suspected attack, and the defenses applied."""
    from loradar.guard.traffic import classify

    findings = [finding for finding, _ in classify(_open(folder, base, level, key=key), images)]
    return Output(text=[_table(findings)], data=findings)


@plain_command(guard, "watch", example="loradar guard watch incoming --guard runs/guard --events events.jsonl")
def _watch(
    incoming: Annotated[
        Path, typer.Argument(metavar="FOLDER", help="Folder that images arrive in.", show_default=False)
    ],
    folder: _Folder = Path("runs/guard"),
    base: _Base = None,
    level: _Level = None,
    window: Annotated[
        int, typer.Option(metavar="N", min=1, help="Last images that the level of alarm depends on.")
    ] = 200,
    events: Annotated[
        Path | None, typer.Option(metavar="PATH", help="Append each decision to this file, one JSON object per line.")
    ] = None,
    every: Annotated[float, typer.Option(metavar="X", min=0.05, help="Seconds between looks into the folder.")] = 1.0,
    once: Annotated[bool, typer.Option("--once", help="Stop when the folder holds nothing new.")] = False,
    key: Key = None,
) -> None:
    """Classify images as they arrive in a folder; the level of alarm follows the traffic. Stop with Ctrl-C."""
    from loradar.guard.traffic import arrivals

    arrivals(incoming)
    if events is not None:
        _append(events, "")  # fails now, not at the first alarm
    traffic = _open(folder, base, level, window, key=key)
    screen = console()
    if not screen.is_terminal:
        for finding, decisions in _stream(traffic, incoming, every, once):
            show(_line(finding))
            _note(decisions, events)
        return
    recent: deque[Finding] = deque(maxlen=_SHOWN)
    with Live(console=screen, refresh_per_second=8) as live:
        for finding, decisions in _stream(traffic, incoming, every, once):
            recent.append(finding)
            _note(decisions, events)
            live.update(_table(recent, title=_state(traffic)))


def _open(
    folder: Path, base: str | None, level: Held | None, window: int = 200, *, key: Path | None = None
) -> "Traffic":
    from loradar.guard.guard import Guard
    from loradar.guard.traffic import open_traffic

    return open_traffic(Guard.open(folder, base=base, key=key), fixed=level, window=window)


def _stream(traffic: "Traffic", incoming: Path, every: float, once: bool) -> "Iterator[tuple[Finding, list[Event]]]":
    """Findings as files come, and anew where one has changed; what is no picture is named on standard error, once per state."""
    from loradar.data.pictures import is_note
    from loradar.guard.traffic import arrivals, classify

    known: dict[Path, tuple[int, ...]] = {}
    while True:
        # states are of before the reading: what is written meanwhile is read again
        found = arrivals(incoming)
        new = [path for path, state in found.items() if known.get(path) != state]
        known = found
        for path in new:
            if is_note(path):
                note(f"skipped: {path} is no picture by its name", style="yellow")
                continue
            try:
                yield from classify(traffic, [path])
            except BadDataError as error:
                note(f"skipped: {error}", style="yellow")
        if once and not new:
            return
        if not new:
            time.sleep(every)


def _note(decisions: "list[Event]", place: Path | None) -> None:
    for event in decisions:
        if place is not None:
            _append(place, json.dumps(dataclasses.asdict(event)) + "\n")
        if event.kind != "defended":
            note(f"{event.kind}: {event.reason}", style="bold")


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


def _table(findings: "Sequence[Finding] | deque[Finding]", title: str = "") -> Rows:
    voters = list(findings[0].voters) if findings else []
    rows = []
    for finding in findings:
        votes = (finding.voters[name] for name in voters)
        rows.append(
            (
                Path(finding.image).name,
                f"{finding.answer} {finding.confidence:.0%}",
                *(f"{vote[0]} {vote[1]:.0%}" if vote else "-" for vote in votes),
                f"{finding.suspected} {finding.probability:.0%}",
                ", ".join(finding.defenses) or "-",
                f"{finding.passes:.2f}",
            )
        )
    return Rows(["image", "answer", *voters, "suspected", "defenses", "forwards"], rows, title)


def _line(finding: "Finding") -> str:
    defenses = ", ".join(finding.defenses) or "none"
    return (
        f"{finding.image}: {finding.answer} ({finding.confidence:.0%}), suspected {finding.suspected} "
        f"({finding.probability:.0%}), defenses {defenses}, level {finding.level}"
    )
