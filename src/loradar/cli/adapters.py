"""`loradar adapters`: list, show, verify, factor."""

from pathlib import Path
from typing import Annotated

import typer

from loradar.cli.flags import plain_command
from loradar.cli.help import Group
from loradar.cli.printing import Output

adapters = typer.Typer(
    cls=Group,
    rich_markup_mode=None,
    help="List, show and verify adapter folders; make one of a tuned model.",
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


@plain_command(
    adapters, "factor", example="loradar adapters factor runs/base runs/tuned --max-bytes 400kB --out runs/factored"
)
def _factor(
    base: Annotated[str, typer.Argument(metavar="BASE", help="The model, as harden takes it.", show_default=False)],
    tuned: Annotated[
        str, typer.Argument(metavar="TUNED", help="The same architecture with tuned weights.", show_default=False)
    ],
    out: Annotated[
        Path, typer.Option("--out", "-o", metavar="PATH", help="Folder for the adapter.", show_default=False)
    ],
    rank: Annotated[
        str | None, typer.Option(metavar="TEXT", help="Rank of each update, as harden takes it: N, <=N or PATTERN=N.")
    ] = None,
    max_bytes: Annotated[
        str | None, typer.Option(metavar="SIZE", help="In place of a rank: the most that the weights may take on disk.")
    ] = None,
    data: Annotated[
        str | None, typer.Option(metavar="TEXT", help="Images to measure clean accuracy on, as harden takes them.")
    ] = None,
) -> Output:
    """Factor a tuned model into an adapter of its base, and say what that loses.

    The change of each weight becomes its truncated singular value decomposition; biases, normalisation and head that
    differ are kept exactly. Anything else that differs, as positional embeddings, is refused.
    """
    from loradar.cli.show import factored
    from loradar.jobs import factor

    job = factor.resolve(base, tuned, out=out, rank=rank, max_bytes=max_bytes, data=data)
    return factored(factor.run(job), out)
