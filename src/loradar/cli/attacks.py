"""`loradar attacks`: list the attacks, show the settings of one."""

from typing import Annotated

import typer

from loradar.cli.flags import plain_command
from loradar.cli.help import Group
from loradar.cli.printing import Output, Rows, prose

attacks = typer.Typer(
    cls=Group,
    rich_markup_mode=None,
    help="""List the attacks, and show the settings of one.

    `a+b` is the strongest of several attacks for each image, `a|b` one of them at random.
    """,
    epilog="loradar attacks show pgd",
)


@plain_command(attacks, "list", example="loradar attacks list")
def _list() -> Output:
    """List the attacks and presets that --attacks takes, plugins included."""
    from loradar.attacks import available_attacks

    known = available_attacks()
    return Output(text=[Rows(("attack", "what it does"), list(known.items()))], data=known)


@plain_command(attacks, "show", example="loradar attacks show pgd")
def _show(
    name: Annotated[str, typer.Argument(metavar="NAME", help="An attack or preset of the list.", show_default=False)],
) -> Output:
    """Show what an attack does, and its settings with types, defaults and bounds."""
    from loradar.attacks import describe_attack

    info = describe_attack(name)
    table = Rows(
        ("setting", "type", "default", "bounds", ""),
        [(one.name, one.type, one.default, one.bounds, one.help) for one in info.settings],
    )
    return Output(text=[*map(prose, info.text.split("\n\n")), "", table, "", f"use: --attacks {info.spec}"], data=info)
