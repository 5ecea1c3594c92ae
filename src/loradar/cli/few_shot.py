"""`loradar meta-tune` and `loradar few-shot`: fit, classify, evaluate."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from loradar.cli.flags import Key, command, plain_command
from loradar.cli.help import Group
from loradar.cli.printing import Facts, Output, Rows, console
from loradar.fewshot.config import FewShotEvalConfig, FewShotFitConfig, MetaTuneConfig

if TYPE_CHECKING:
    from loradar.fewshot.classify import Answer
    from loradar.fewshot.fit import Fitted

few_shot = typer.Typer(
    cls=Group,
    rich_markup_mode=None,
    help="Fit an adapter to a few labelled images of a new task, classify with it, and evaluate the pool.",
    epilog="loradar few-shot fit path/to/images --pool runs/pool --out runs/task",
)


def meta_tune(config: MetaTuneConfig) -> Output:
    """Meta-tune a pool of adversarial adapters, each at its own perturbation size.

    An interrupted run resumes. `loradar few-shot fit` blends the pool for a task.
    """
    from loradar.cli.progress import watching
    from loradar.fewshot import meta_tune

    with watching(console(stderr=True)) as progress:
        folder = meta_tune.run(meta_tune.resolve(config), progress=progress).folder
    return Output(text=[f"pool: {folder}"], data={"pool": folder})


@command(
    few_shot,
    "eval",
    FewShotEvalConfig,
    resumes=True,
    example="loradar few-shot eval --pool runs/pool --domain leaves=path/to/images --domain digits=digits",
)
def _eval(config: FewShotEvalConfig) -> Output:
    """Measure the blended pool and every baseline on tasks of any domain: clean, attacked, corrupted.

    An interrupted run resumes.
    """
    from loradar.cli.progress import watching
    from loradar.fewshot import evaluate

    with watching(console(stderr=True)) as progress:
        page = evaluate.run(evaluate.resolve(config), progress=progress).page
    return summary(page)


@command(
    few_shot,
    "fit",
    FewShotFitConfig,
    positional="support",
    example="loradar few-shot fit path/to/images --pool runs/pool --out runs/task",
)
def _fit(config: FewShotFitConfig) -> Output:
    """Make an adapter from a folder of images by class: blend the pool for them, truncate it, fit a head."""
    from loradar.fewshot import fit

    return fitted(fit.run(fit.resolve(config)), config.out)


@plain_command(few_shot, "classify", example="loradar few-shot classify runs/task photo.png other.png")
def _classify(
    adapter: Annotated[
        Path,
        typer.Argument(
            metavar="ADAPTER", help="The folder that `few-shot fit` wrote, or hub:OWNER/NAME.", show_default=False
        ),
    ],
    images: Annotated[list[Path], typer.Argument(metavar="IMAGES", help="Image files.", show_default=False)],
    base: Annotated[
        str | None, typer.Option(metavar="TEXT", help="The base. Default: the one that the adapter was fitted on.")
    ] = None,
    transductive: Annotated[
        bool,
        typer.Option("--transductive", help="Classify all images at once: better for many images of several classes."),
    ] = False,
    support: Annotated[
        str | None,
        typer.Option(
            metavar="TEXT", help="For --transductive: the support images. Default: where they were at the fit."
        ),
    ] = None,
    key: Key = None,
) -> Output:
    """Classify images with the adapter of a few-shot task.

    --transductive removes what all images share and the support does not, such as a corruption or another light, and
    learns from the images as it classifies them.
    """
    from loradar.fewshot import classify

    job = classify.resolve(adapter, images, base=base, transductive=transductive, support=support, key=key)
    return answered(classify.run(job))


def summary(page: Path) -> Output:
    """The averages of the report beside `page`, a line each."""
    from loradar.report.few_shot import AVERAGE
    from loradar.report.files import read_report
    from loradar.report.measured import attack_names

    section = read_report(page.parent).few_shot
    rows = [row for row in section.rows if row.domain.startswith(AVERAGE)] if section else []
    names = attack_names(row.attack for row in rows)
    table = Rows(
        ("method", "domains", "setting", "attack", "right (95 % interval)", "tasks"),
        [
            (
                row.method,
                row.domain.removeprefix(AVERAGE).strip(),
                row.setting,
                names[row.attack],
                f"{100 * row.mean:.1f} ± {100 * row.half_width:.1f} %",
                row.episodes,
            )
            for row in rows
        ],
    )
    return Output(
        text=[table, f"report: {page}"], data={"rows": [dataclasses.asdict(row) for row in rows], "report": page}
    )


def fitted(result: "Fitted", folder: Path) -> Output:
    """Which members were blended, how images that its head did not see are answered, and how long each step took."""
    from loradar.cli.show import percent
    from loradar.evaluation import NO_ATTACK, short_names
    from loradar.fewshot.pools import BASE

    weights = {name: weight for name, weight in result.weights.items() if weight}
    blend = ", ".join(f"{name} {weight:.2f}" for name, weight in weights.items())
    facts = {
        "classes": ", ".join(result.adapter.card.classes),
        "blend": blend or "none; the base is as it was, under a new head",
        "time": ", ".join(f"{name} {value:.2f} s" for name, value in result.seconds.items()),
    }
    if result.rate is not None:
        facts["fine-tuned"] = (
            f"every weight, at learning rate {result.rate:g}"
            if result.rate
            else "no learning rate was better than the blend, which is kept"
        )
    if result.error is not None:
        facts["truncated"] = f"relative error {result.error:.4f}"
    data = {
        "adapter": folder,
        "classes": list(result.adapter.card.classes),
        "weights": weights,
        "held_out": [dataclasses.asdict(row) for row in result.held_out],
        "flattered": result.flattered,
        "seconds": result.seconds,
        "learning_rate": result.rate,
        "truncation_error": result.error,
    }
    facts |= {"too high": result.flattered} if result.flattered else {}
    names = short_names(row.attack for row in result.held_out)
    table = Rows(
        ("model", "images left out in turn", "right (95 % interval)", "n"),
        [
            (row.model, "clean" if row.attack == NO_ATTACK else names[row.attack], percent(row), row.total)
            for row in result.held_out
            if result.weights or row.model != BASE
        ],
    )
    return Output(text=[Facts(facts), table, f"adapter: {folder}"], data=data)


def answered(answers: "Sequence[Answer]") -> Output:
    """The class of each image and its confidence, a line each."""
    table = Rows(
        ("image", "answer", "confidence"), [(one.image, one.answer, f"{100 * one.confidence:.0f} %") for one in answers]
    )
    return Output(text=[table], data=list(answers))
