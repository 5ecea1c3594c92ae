"""The command line. Every command's flags are the fields of its schema; torch is imported when work begins."""

import contextlib
import dataclasses
import os
import sys
import time
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer

from loradar import __version__
from loradar.cli import hub, jobs, serve
from loradar.cli.adapters import adapters
from loradar.cli.attacks import attacks
from loradar.cli.few_shot import few_shot, meta_tune
from loradar.cli.flags import Interrupted, command, plain_command
from loradar.cli.guard import guard
from loradar.cli.help import Group
from loradar.cli.printing import Output, console, note, show
from loradar.cli.report import report
from loradar.core.errors import BadConfigError, LoradarError
from loradar.core.torchrun import launched
from loradar.fewshot.config import MetaTuneConfig
from loradar.fewshot.presets import PRESETS
from loradar.jobs.config import AuditConfig, CraftConfig, ExportConfig, HardenConfig, PredictConfig, PretrainConfig
from loradar.jobs.recipes import RECIPES

app = typer.Typer(
    name="loradar",
    cls=Group,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    help="""Small adversarial low-rank adapters that make a frozen image classifier robust, measured honestly.

    A first look, on built-in digits: `loradar demo`
    """,
    epilog="loradar harden timm:resnet18 --data path/to/images --out runs/mine",
)
app.add_typer(adapters, name="adapters")
app.add_typer(attacks, name="attacks")
app.add_typer(few_shot, name="few-shot")
app.add_typer(guard, name="guard")
jobs.register(app)
serve.register(app)
hub.register(app)
plain_command(app, "report", example="loradar report runs/mine")(report)
_STOPPED = 130
_GRACE = 10.0
"""Seconds that the first of several processes is given to say what went wrong: most mistakes are made in all of them."""
_LONGEST = 2000
"""Characters of an error line that are shown."""
_UsageError: Any = typer.BadParameter.mro()[1]
"""Of click, or of the copy that newer versions of typer carry: both have it there, neither under a public name."""


def _print_version(wanted: bool) -> None:
    if wanted:
        show(f"loradar {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    context: typer.Context,
    version: Annotated[  # noqa: ARG001
        bool, typer.Option("--version", is_eager=True, callback=_print_version, help="Print the version and exit.")
    ] = False,
) -> None:
    if launched().size > 1 and context.invoked_subcommand not in (None, "harden"):
        raise BadConfigError(
            f"torchrun started {launched().size} processes of `{context.invoked_subcommand}`, which would all do the same; "
            "expected harden, or start it without torchrun"
        )


@command(app, "pretrain", PretrainConfig, resumes=True, example="loradar pretrain --data path/to/images --size 64")
def _pretrain(config: PretrainConfig) -> Output:
    """Train a base on any data (SGD with Nesterov momentum, one-cycle schedule, crops and flips).

    An interrupted run resumes.
    """
    from loradar.cli.progress import watching
    from loradar.cli.show import percent
    from loradar.jobs import pretrain

    with watching(console(stderr=True)) as progress:
        row = pretrain.run(pretrain.resolve(config), progress=progress).row
    return Output(
        text=[f"base: {percent(row)} right on {row.total} reported images", f"folder: {config.out}"],
        data={"base": config.out, "measured": row},
    )


@command(
    app,
    "harden",
    HardenConfig,
    positional="base",
    resumes=True,
    more=f"RECIPES\n\n{RECIPES.in_words()}",
    example="loradar harden torchvision:resnet18 --data path/to/images --attacks pgd --attacks roa:height=7,width=7",
)
def _harden(config: HardenConfig) -> Output:
    """Train one adapter per attack on a frozen base, measure each, and write the report.

    An interrupted run resumes.
    """
    from loradar.cli.progress import watching
    from loradar.cli.show import next_commands, summary
    from loradar.jobs import harden

    with watching(console(stderr=True)) as progress:
        done = harden.run(harden.resolve(config), progress=progress)
    output = summary(done.page, adapters=config.out / "adapters")
    return dataclasses.replace(output, text=[*output.text, *next_commands(config, done)])


@command(
    app,
    "craft",
    CraftConfig,
    positional="base",
    resumes=True,
    example="loradar craft runs/base --data path/to/images --attacks pgd:steps=50 --split reported",
)
def _craft(config: CraftConfig) -> Output:
    """Craft attacks on a base and keep the images, for harden on the same data, and as files for others.

    With --shard, several machines that share a disk each craft a piece.
    """
    from loradar.cli.progress import watching
    from loradar.jobs import craft

    with watching(console(stderr=True)) as progress:
        result = craft.run(craft.resolve(config), progress=progress)
    if config.shard is not None:
        return Output(text=[f"shard {config.shard}: kept in {config.cache}"], data={"shard": config.shard})
    lines = [f"{name}: {len(result.labels)} images, {path}" for name, path in result.files.items()]
    return Output(text=lines, data={"images": len(result.labels), "files": result.files})


@command(
    app,
    "audit",
    AuditConfig,
    positional="base",
    resumes=True,
    example="loradar audit runs/demo/base --adapter runs/demo/harden/adapters/pgd --attacks pgd:steps=50",
)
def _audit(config: AuditConfig) -> Output:
    """Measure a base and adapters against attacks, by transfer and adaptively. Nothing is trained."""
    from loradar.cli.progress import watching
    from loradar.cli.show import summary
    from loradar.jobs import audit

    with watching(console(stderr=True)) as progress:
        page = audit.run(audit.resolve(config), progress=progress).page
    return summary(page)


@plain_command(app, "demo", example="loradar demo --out runs/demo", resumes=True)
def _demo(
    folder: Annotated[Path, typer.Option("--out", metavar="PATH", help="Folder for base, adapters and report.")] = Path(
        "runs/demo"
    ),
    seed: Annotated[int, typer.Option(metavar="N", min=0, help="Seed of everything random.")] = 0,
) -> Output:
    """Harden a classifier of handwritten digits, offline, in minutes: a base, adapters for ROA, FIA and PGD, a report."""
    from loradar.cli.progress import watching
    from loradar.cli.show import summary
    from loradar.jobs.demo import demo

    with watching(console(stderr=True)) as progress:
        page = demo(folder, seed=seed, progress=progress)
    return summary(page, adapters=folder / "harden" / "adapters")


@plain_command(app, "inspect", example="loradar inspect torchvision:resnet18 --rank 8")
def _inspect(
    base: Annotated[str, typer.Argument(metavar="BASE", help="The model, as harden takes it.", show_default=False)],
    target_modules: Annotated[
        list[str], typer.Option(metavar="TEXT", help="Layers to adapt: a preset, or name patterns. May be repeated.")
    ] = HardenConfig.model_fields["target_modules"].default,
    rank: Annotated[str, typer.Option(metavar="TEXT", help="Rank to compute sizes for, as harden takes it.")] = str(
        HardenConfig.model_fields["rank"].default
    ),
) -> Output:
    """Show a base's layers, which of them the targets cover, and how large an adapter would be."""
    from loradar.cli.show import inspection

    return inspection(base, target_modules, rank)


@command(
    app,
    "predict",
    PredictConfig,
    positional="pictures",
    example="loradar predict photo.png --base runs/demo/base --adapter runs/demo/harden/adapters/pgd --top 3",
)
def _predict(config: PredictConfig) -> Output:
    """Classify pictures with a base, or with an adapter plugged into it."""
    from loradar.cli.show import predictions
    from loradar.jobs.predict import resolve, run

    return predictions(run(resolve(config)))


@command(
    app, "export", ExportConfig, positional="place", example="loradar export runs/guard --to onnx --out guard.onnx"
)
def _export(config: ExportConfig) -> Output:
    """Write a base, an adapter on its base, a task or a guard as a file for other runtimes.

    The file is read again by its runtime and compared with the model; nothing is written where answers differ, but for
    onnx-int8, which is a little another model.
    """
    from loradar.cli.show import int8
    from loradar.jobs.export import resolve, run

    done = run(resolve(config))
    found = done.comparison
    lines = [
        f"{config.to}: {done.path}",
        f"read again by {done.read_by}: {found.equal} of {found.total} answers equal, "
        f"logits differ by {found.largest:.2g} at most",
    ]
    if config.to == "onnx-int8":
        lines += int8(done)
    return Output(text=lines, data=done)


command(
    app,
    "meta-tune",
    MetaTuneConfig,
    positional="base",
    resumes=True,
    more=f"PRESETS\n\n{PRESETS.in_words()}",
    example="loradar meta-tune runs/base --data path/to/images --preset quick --out runs/pool",
)(meta_tune)


def main() -> None:
    """Runs the command; a user's mistake is one line on standard error and exit code 2."""
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(AttributeError, OSError, ValueError):
            # a name that the terminal's encoding does not have is shown by its code points
            stream.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]
    try:
        code = app(prog_name="loradar", standalone_mode=False) or 0
        if sys.stdout is not None:  # it may be closed
            sys.stdout.flush()
    except LoradarError as error:
        _refuse(str(error))
    except _UsageError as error:
        text = " ".join(error.format_message().split()).rstrip(".")
        _refuse(f"{text}; see `{error.ctx.command_path if error.ctx else 'loradar'} --help`")
    except Interrupted as error:
        _stop(str(error))
    except (KeyboardInterrupt, typer.Abort):
        _stop("Interrupted.")
    except BrokenPipeError:
        _abandon_output()
        code = 1
    except OSError as error:
        _abandon_output()
        place = f"{error.filename}: " if error.filename else ""
        _refuse(f"{place}{error.strerror or error}")
    if code == _STOPPED:
        _stop("Interrupted.")
    sys.exit(code)


def _refuse(line: str) -> NoReturn:
    if len(line) > _LONGEST:  # an argument may be of any length: what is wrong stands before it, how to mend it behind
        line = f"{line[: _LONGEST // 2]} ... {line[-_LONGEST // 2 :]}"
    if rank := _rank():
        time.sleep(_GRACE)  # torchrun ends this process as soon as the first one fails
        line = f"process {rank}: {line}"
    note(f"loradar: {line}", style="red")
    sys.exit(2)


def _stop(line: str) -> NoReturn:
    if not _rank():
        note(line)
    sys.exit(_STOPPED)


def _rank() -> int:
    try:
        return launched().rank
    except BadConfigError:  # the error itself
        return 0


def _abandon_output() -> None:
    """Sends what is still buffered for a closed or full standard output nowhere, so that exiting says nothing of it."""
    with contextlib.suppress(OSError, ValueError, AttributeError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
