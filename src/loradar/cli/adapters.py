"""`loradar adapters`: list, show, verify, keygen, sign, factor."""

from pathlib import Path
from typing import Annotated

import typer

from loradar.cli.flags import Key, plain_command
from loradar.cli.help import Group
from loradar.cli.printing import Output

adapters = typer.Typer(
    cls=Group,
    rich_markup_mode=None,
    help="List, show, verify and sign adapter folders; make one of a tuned model.",
    epilog="loradar adapters list runs",
)

_Signed = Annotated[
    Path,
    typer.Argument(
        metavar="FOLDER", help="Folder of an adapter, a task or a guard, or hub:OWNER/NAME.", show_default=False
    ),
]
_Folder = Annotated[
    Path, typer.Argument(metavar="FOLDER", help="An adapter folder, or hub:OWNER/NAME.", show_default=False)
]


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
    folder: _Signed,
    base: Annotated[
        str | None,
        typer.Option(metavar="TEXT", help="The base that it should fit, as harden takes it.", show_default=False),
    ] = None,
    key: Key = None,
) -> Output:
    """Check the files of an adapter, a task or a guard, its base, and who signed it. Exits with 2 where something is wrong.

    It is what opening the folder checks, and nothing else.
    """
    from loradar.jobs.signing import verify_folder

    found = verify_folder(folder, base=base, key=key)
    lines = [f"{folder} is complete" + (f" and belongs to {base}" if base else ""), found.bound]
    if key is not None:
        lines.append(f"signed by the owner of {key}")
    data = {"folder": folder, "base": base, "verified": True, "digest": found.digest, "signed_by": key}
    return Output(text=lines, data=data)


@plain_command(adapters, "keygen", example="loradar adapters keygen ~/loradar-key")
def _keygen(
    out: Annotated[
        Path,
        typer.Argument(metavar="OUT", help="File for the private key; the public one is OUT.pub.", show_default=False),
    ],
) -> Output:
    """Make a pair of Ed25519 keys: one to sign folders with, and a public one for those who open them."""
    from loradar.core.files import expand_home
    from loradar.core.signing import make_keys

    private, public = make_keys(expand_home(out))
    return Output(
        text=[f"private key: {private} (keep it to yourself)", f"public key: {public}"],
        data={"private": private, "public": public},
    )


@plain_command(adapters, "sign", example="loradar adapters sign runs/guard --key ~/loradar-key")
def _sign(
    folder: Annotated[
        Path, typer.Argument(metavar="FOLDER", help="Folder of an adapter, a task or a guard.", show_default=False)
    ],
    key: Annotated[Path, typer.Option(metavar="PATH", help="Private key, of keygen.", show_default=False)],
) -> Output:
    """Sign the folder of an adapter, a task, or a guard with its adapters."""
    from loradar.core.files import expand_home
    from loradar.jobs.signing import sign_folder

    signature = sign_folder(folder, expand_home(key))
    return Output(text=[f"signature: {signature}"], data={"folder": folder, "signature": signature})


@plain_command(
    adapters, "factor", example="loradar adapters factor runs/base runs/tuned --max-bytes 400kB --out runs/factored"
)
def _factor(
    base: Annotated[str, typer.Argument(metavar="BASE", help="The model, as harden takes it.", show_default=False)],
    tuned: Annotated[
        str, typer.Argument(metavar="TUNED", help="The same architecture with tuned weights.", show_default=False)
    ],
    out: Annotated[Path, typer.Option("--out", metavar="PATH", help="Folder for the adapter.", show_default=False)],
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
