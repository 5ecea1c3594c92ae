"""The command line. Every command's flags are the fields of its schema; torch is imported when work begins."""

import sys
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer
from rich.console import Console

from loradar import __version__
from loradar.cli.flags import command
from loradar.cli.guard import guard
from loradar.core.errors import LoradarError
from loradar.fewshot.config import FewShotEvalConfig, FewShotFitConfig, MetaTuneConfig
from loradar.jobs.config import AuditConfig, HardenConfig, PretrainConfig

app = typer.Typer(
    name="loradar",
    no_args_is_help=True,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
    help="""Small adversarial low-rank adapters that make a frozen image classifier robust, measured honestly.

    A first look, on built-in digits: `loradar demo`

    Your own model: `loradar harden timm:resnet18:pretrained=true --data path/to/images --out runs/mine`
    """,
)
adapters = typer.Typer(no_args_is_help=True, help="List, show and verify adapter folders.")
app.add_typer(adapters, name="adapters")
few_shot = typer.Typer(no_args_is_help=True, help="A few labelled images of a new task: fit, classify, evaluate.")
app.add_typer(few_shot, name="few-shot")
app.add_typer(guard, name="guard")
out, err = Console(), Console(stderr=True)
_STOPPED = 130
_UsageError: Any = typer.BadParameter.mro()[1]
"""Of click, or of the copy that newer versions of typer carry: both have it there, neither under a public name."""


@command(app, "pretrain", PretrainConfig)
def _pretrain(config: PretrainConfig) -> None:
    """Train a base on any data source (SGD with Nesterov momentum, one-cycle, crop and flip). Resumes if killed."""
    from loradar.cli.progress import watching
    from loradar.cli.show import percent
    from loradar.jobs import pretrain

    with watching(err) as progress:
        row = pretrain.run(pretrain.resolve(config), progress=progress).row
    out.print(f"base: {percent(row)} right on {row.total} reported images\n{config.out}")


@command(app, "harden", HardenConfig, positional="base")
def _harden(config: HardenConfig) -> None:
    """Train one adapter per attack on a frozen base, measure each, and write the report. Resumes if killed."""
    from loradar.cli.progress import watching
    from loradar.cli.show import summary
    from loradar.jobs import harden

    with watching(err) as progress:
        page = harden.run(harden.resolve(config), progress=progress).page
    out.print(summary(page.parent))
    out.print(f"adapters: {config.out / 'adapters'}\nreport:   {page}", soft_wrap=True)


@command(app, "audit", AuditConfig, positional="base")
def _audit(config: AuditConfig) -> None:
    """Measure a base and adapters against attacks, by transfer and adaptively; nothing is trained."""
    from loradar.cli.progress import watching
    from loradar.cli.show import summary
    from loradar.jobs import audit

    with watching(err) as progress:
        page = audit.run(audit.resolve(config), progress=progress).page
    out.print(summary(page.parent))
    out.print(f"report: {page}", soft_wrap=True)


@app.command("demo")
def _demo(
    folder: Annotated[Path, typer.Option("--out", help="Folder for base, adapters and report.")] = Path("runs/demo"),
    seed: Annotated[int, typer.Option(help="Seeds everything.")] = 0,
) -> None:
    """Handwritten digits, offline, in minutes: a base, an adapter each for ROA, FIA and PGD, and the report."""
    from loradar.cli.progress import watching
    from loradar.cli.show import summary
    from loradar.jobs.demo import demo

    with watching(err) as progress:
        page = demo(folder, seed=seed, progress=progress).page
    out.print(summary(page.parent))
    out.print(f"open the report: {page}", soft_wrap=True)


@app.command("inspect")
def _inspect(
    base: Annotated[str, typer.Argument(help="As for harden.")],
    targets: Annotated[list[str], typer.Option(help="Preset or patterns to try.")] = ["block-conv1+stem"],  # noqa: B006
    rank: Annotated[int, typer.Option(min=1, help="Rank to reckon sizes for.")] = 4,
) -> None:
    """Show what a base is made of: its layers, which of them the targets hit, and how large an adapter would be."""
    from loradar.cli.show import inspection

    out.print(inspection(base, targets, rank))


@adapters.command("list")
def _list(folder: Annotated[Path, typer.Argument(help="A folder that holds adapter folders.")] = Path()) -> None:
    """List the adapters below a folder."""
    from loradar.cli.show import listing

    out.print(listing(folder))


@adapters.command("show")
def _show(folder: Annotated[Path, typer.Argument(help="An adapter folder.")]) -> None:
    """Show an adapter's card: what it was trained against, on what data, and what was measured."""
    from loradar.cli.show import card

    out.print(card(folder))


@adapters.command("verify")
def _verify(
    folder: Annotated[Path, typer.Argument(help="An adapter folder.")],
    base: Annotated[str, typer.Option(help="The base that it should fit, as for harden.")],
) -> None:
    """Check an adapter's files and that it belongs to a base: exit 0, or say what is wrong and exit 2."""
    from loradar.cli.show import verified

    out.print(verified(folder, base), soft_wrap=True)


@command(app, "meta-tune", MetaTuneConfig, positional="base")
def _meta_tune(config: MetaTuneConfig) -> None:
    """Meta-tune a pool of adversarial adapters on few-shot tasks, each against its own budget. Resumes if killed.

    `loradar meta-tune runs/base --data path/to/images --out runs/pool`, then `loradar few-shot fit`.
    """
    from loradar.cli.progress import watching
    from loradar.fewshot import meta_tune

    with watching(err) as progress:
        meta_tune.run(meta_tune.resolve(config), progress=progress)
    out.print(f"pool: {config.out}", soft_wrap=True)


@command(few_shot, "eval", FewShotEvalConfig)
def _few_shot_eval(config: FewShotEvalConfig) -> None:
    """Measure the blended pool beside every baseline, on tasks of any domains: clean, attacked, corrupted. Resumes.

    `loradar few-shot eval --pool runs/pool --domain leaves=path/to/images --domain digits=digits`
    """
    from loradar.cli.few_shot import summary
    from loradar.cli.progress import watching
    from loradar.fewshot import evaluate

    with watching(err) as progress:
        page = evaluate.run(evaluate.resolve(config), progress=progress).page
    out.print(summary(page.parent))
    out.print(f"report: {page}", soft_wrap=True)


@command(few_shot, "fit", FewShotFitConfig, positional="support")
def _few_shot_fit(config: FewShotFitConfig) -> None:
    """Make an adapter out of a folder of images by class: blend the pool for them, trim, make a head.

    `loradar few-shot fit path/to/images --pool runs/pool --out runs/task`
    """
    from loradar.cli.few_shot import fitted
    from loradar.fewshot import fit

    out.print(fitted(fit.run(fit.resolve(config))))
    out.print(f"adapter: {config.out}", soft_wrap=True)


@few_shot.command("classify")
def _few_shot_classify(
    adapter: Annotated[Path, typer.Argument(help="The folder that `few-shot fit` wrote.")],
    images: Annotated[list[Path], typer.Argument(help="Pictures to name.")],
    base: Annotated[str | None, typer.Option(help="Default: the base that the adapter was fitted on.")] = None,
    transductive: Annotated[
        bool,
        typer.Option("--transductive", help="Let the images help each other: better for many of several classes."),
    ] = False,
    support: Annotated[
        str | None, typer.Option(help="For --transductive: what the adapter was fitted on. Default: where it was then.")
    ] = None,
) -> None:
    """Say which class of a fitted task each image belongs to.

    --transductive takes away what all images share and the fitted ones do not, such as a corruption or another light, and
    learns from the images as they are answered.
    """
    from loradar.cli.few_shot import answered
    from loradar.fewshot import classify

    job = classify.resolve(adapter, images, base=base, transductive=transductive, support=support)
    out.print(answered(classify.run(job)))


@app.command("version")
def _version() -> None:
    """Print the version."""
    out.print(__version__)


def main() -> None:
    """Runs the command; a user's mistake is one line on standard error and exit code 2."""
    try:
        code = app(prog_name="loradar", standalone_mode=False) or 0
    except LoradarError as error:
        _refuse(str(error))
    except _UsageError as error:
        # no message where the help was asked for by saying nothing: it is on the screen by now
        if said := " ".join(error.format_message().split()).rstrip("."):
            _refuse(f"{said}; see `{error.ctx.command_path if error.ctx else 'loradar'} --help`")
        code = 2
    except (KeyboardInterrupt, typer.Abort):
        code = _STOPPED
    if code == _STOPPED:
        err.print("stopped; the same command goes on from here")
    sys.exit(code)


def _refuse(line: str) -> NoReturn:
    err.print(f"loradar: {line}", style="red", markup=False, highlight=False, soft_wrap=True)
    sys.exit(2)


if __name__ == "__main__":
    main()
