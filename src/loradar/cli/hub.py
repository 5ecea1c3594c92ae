"""`loradar push` and `loradar pull`: folders on the Hugging Face hub."""

from pathlib import Path
from typing import Annotated

import typer

from loradar.cli.flags import plain_command
from loradar.cli.printing import Output, Rows


def register(app: typer.Typer) -> None:
    """Adds the commands to `app`."""
    plain_command(app, "push", example="loradar push runs/guard me/guard --base hub:me/base")(_push)
    plain_command(app, "pull", example="loradar pull me/guard --out runs/guard")(_pull)


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
