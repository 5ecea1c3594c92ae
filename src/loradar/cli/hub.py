"""`loradar push` and `loradar pull`: folders on the Hugging Face hub; `loradar card`: what is published beside them."""

from pathlib import Path
from typing import Annotated

import typer

from loradar.cli.flags import plain_command
from loradar.cli.printing import Output, Rows, show, to_json
from loradar.core.errors import BadConfigError
from loradar.core.names import ADAPTER_CONFIG, GUARD_RECORD, REPORT


def register(app: typer.Typer) -> None:
    """Adds the commands to `app`."""
    plain_command(app, "push", example="loradar push runs/guard me/guard --base hub:me/base")(_push)
    plain_command(app, "pull", example="loradar pull me/guard --out runs/guard")(_pull)
    plain_command(app, "card", example="loradar card runs/audit --robustbench --out entry.json")(_card)


def _push(
    folder: Annotated[
        Path,
        typer.Argument(
            metavar="FOLDER", help="Folder of an adapter, a task, a guard, a pool or a base.", show_default=False
        ),
    ],
    repo: Annotated[str, typer.Argument(metavar="OWNER/NAME", help="Where to send it.", show_default=False)],
    base: Annotated[
        str | None,
        typer.Option(metavar="TEXT", help="Name of the base for those who pull: hub:OWNER/NAME[@REVISION]."),
    ] = None,
    license_name: Annotated[
        str | None, typer.Option("--license", metavar="TEXT", help="License on the model card, such as apache-2.0.")
    ] = None,
    private: Annotated[bool, typer.Option("--private", help="Show it to nobody else.")] = False,
    revision: Annotated[
        str | None, typer.Option(metavar="BRANCH", help="Branch to send to; made where it is not there.")
    ] = None,
    create_pr: Annotated[bool, typer.Option("--create-pr", help="Make a pull request.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Send nothing; list the files and their sizes.")] = False,
) -> Output:
    """Check a folder and send it to the Hugging Face hub, with a model card of its figures.

    Only what loradar wrote is sent: safetensors, JSON and README.md. Log in first with `hf auth login`.
    """
    from loradar.hub import push

    sent = push(
        folder,
        repo,
        base=base,
        license_name=license_name,
        private=private,
        revision=revision,
        create_pr=create_pr,
        dry_run=dry_run,
    )
    table = Rows(("file", "bytes"), [(name, f"{size:,}") for name, size in sent.files.items()])
    lines = [f"{sent.kind}: {sum(sent.files.values()):,} bytes", *([f"base: {sent.base}"] if sent.base else [])]
    ends = ["nothing was sent"] if dry_run else [f"url: {sent.url}", f"commit: {sent.commit}"]
    return Output(text=[*lines, table, *ends], data=sent)


def _pull(
    place: Annotated[str, typer.Argument(metavar="OWNER/NAME[@REVISION]", help="What to fetch.", show_default=False)],
    out: Annotated[
        Path | None, typer.Option(metavar="PATH", help="Folder to copy it to. Default: it stays in the hub's cache.")
    ] = None,
) -> Output:
    """Fetch an adapter, a task, a guard, a pool or a base from the Hugging Face hub, and check its files.

    Whatever takes a folder takes hub:OWNER/NAME as well, and then fetches it itself.
    """
    from loradar.hub import pull

    folder, kind = pull(place, out)
    return Output(text=[f"{kind}: {folder}"], data={"kind": kind, "folder": folder})


def _card(
    folder: Annotated[
        Path,
        typer.Argument(
            metavar="FOLDER",
            help="Folder of an adapter, a task, a guard, a pool or a base; with --robustbench, of a report.",
            show_default=False,
        ),
    ],
    robustbench: Annotated[
        bool, typer.Option("--robustbench", help="The JSON of RobustBench, from a report's adaptive figure.")
    ] = False,
    model: Annotated[
        str | None, typer.Option(metavar="NAME", help="Model of the report, where several have such a figure.")
    ] = None,
    attack: Annotated[
        str | None, typer.Option(metavar="NAME", help="Attack that the figure is of, where there are several.")
    ] = None,
    link: Annotated[str, typer.Option(metavar="URL", help="The paper, for RobustBench.")] = "",
    title: Annotated[str, typer.Option(metavar="TEXT", help="Its title.")] = "",
    authors: Annotated[str, typer.Option(metavar="TEXT", help="Its authors.")] = "",
    venue: Annotated[str, typer.Option(metavar="TEXT", help="Where it was published.")] = "",
    additional_data: Annotated[
        bool | None,
        typer.Option("--additional-data/--no-additional-data", help="Whether more data than the set's own were used."),
    ] = None,
    out: Annotated[
        Path | None, typer.Option(metavar="PATH", help="File to write it to. Default: standard output.")
    ] = None,
) -> None:
    """Print the model card that push would write, or a figure as RobustBench's JSON.

    What no report knows (link, title, authors, venue, additional data) stays empty unless it is given.
    """
    from loradar.core.files import write_atomically

    given = [one for one in (model, attack, link, title, authors, venue, additional_data) if one not in (None, "")]
    if given and not robustbench:
        raise BadConfigError(f"{given[0]!r:.80} is for RobustBench alone; give --robustbench too")
    if robustbench:
        from loradar.report.files import read_report
        from loradar.report.robustbench import Paper, robustbench_entry

        if not (folder / REPORT).exists() and any((folder / name).exists() for name in (ADAPTER_CONFIG, GUARD_RECORD)):
            raise BadConfigError(
                f"{folder} has no {REPORT}, and its card does not say which attacks its figures met; give the folder of a "
                "report, such as `loradar audit BASE --adapter FOLDER --attacks autoattack --effort full` makes"
            )
        paper = Paper(link=link, title=title, authors=authors, venue=venue, additional_data=additional_data)
        lines = to_json(robustbench_entry(read_report(folder), paper, model=model, attack=attack)).splitlines()
    else:
        from loradar.hub import model_card

        lines = model_card(folder).splitlines()
    if out is None:
        show(*lines)
    else:
        write_atomically(out, ("\n".join(lines) + "\n").encode())
