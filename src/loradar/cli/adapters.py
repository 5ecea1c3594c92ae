"""`loradar adapters`: list, show, verify."""

from pathlib import Path
from typing import Annotated

import typer

from loradar.cli.flags import plain_command
from loradar.cli.help import Group
from loradar.cli.printing import Output

adapters = typer.Typer(
    cls=Group,
    rich_markup_mode=None,
    help="List, show and verify adapter folders.",
    epilog="loradar adapters list runs",
)

_Folder = Annotated[Path, typer.Argument(metavar="FOLDER", help="An adapter folder.", show_default=False)]


@plain_command(adapters, "list", example="loradar adapters list runs/demo/harden")
def _list(
    folder: Annotated[Path, typer.Argument(metavar="[FOLDER]", help="A folder that holds adapter folders.")] = Path(),
) -> Output:
    """List the adapters below a folder."""
    from loradar.cli.show import listing

    return listing(folder)


@plain_command(adapters, "show", example="loradar adapters show runs/demo/harden/adapters/pgd")
def _show(folder: _Folder) -> Output:
    """Show an adapter's card: what it was trained against, on which data, and what was measured."""
    from loradar.cli.show import card

    return card(folder)


@plain_command(
    adapters, "verify", example="loradar adapters verify runs/demo/harden/adapters/pgd --base runs/demo/base"
)
def _verify(
    folder: _Folder,
    base: Annotated[
        str, typer.Option(metavar="TEXT", help="The base that it should fit, as harden takes it.", show_default=False)
    ],
) -> Output:
    """Check an adapter's files, and that it belongs to a base. Exits with 2 where something is wrong."""
    from loradar.cli.show import verified

    return verified(folder, base)
