"""`loradar check` and `loradar run`."""

from pathlib import Path
from typing import Annotated

import typer

from loradar.cli.flags import command, plain_command
from loradar.cli.printing import Output, console
from loradar.core.errors import BadConfigError
from loradar.jobs.config import CheckConfig


def register(app: typer.Typer) -> None:
    """Adds both commands to `app`."""

    @command(app, "check", CheckConfig, positional="base", example="loradar check torchvision:resnet18 --data photos/")
    def _check(config: CheckConfig) -> Output:
        """Attack a model for about a minute and say in words what breaks it, and how sure that is."""
        from loradar.cli.progress import watching
        from loradar.jobs import check

        with watching(console(stderr=True)) as progress:
            result = check.run(check.resolve(config), progress=progress)
        data = {"verdict": result.verdict, "next_steps": result.next_steps, "rows": result.report.rows}
        return Output(text=str(result).splitlines(), data=data)

    @plain_command(app, "run", example="loradar run experiments/cifar10-resnet18/stock.yaml --set seed=1", resumes=True)
    def _run(
        file: Annotated[Path, typer.Argument(metavar="FILE", help="YAML file of stages.", show_default=False)],
        only: Annotated[list[str], typer.Option(metavar="STAGE", help="Run this stage alone. May be repeated.")] = [],  # noqa: B006
        changes: Annotated[
            list[str],
            typer.Option(
                "--set",
                metavar="NAME=VALUE",
                help="Change a variable, out, or a setting (STAGE.KEY=VALUE). May be repeated.",
            ),
        ] = [],  # noqa: B006
    ) -> Output:
        """Run the stages of a file in order: pretrain, harden, sweep, guard, few-shot, audit. Finished ones are skipped."""
        from loradar.cli.progress import watching
        from loradar.jobs import stages

        pairs = [change.partition("=") for change in changes]
        if odd := next((change for change, (_, sign, _) in zip(changes, pairs, strict=True) if not sign), None):
            raise BadConfigError(f"--set {odd!r} cannot be read; expected NAME=VALUE")
        job = stages.resolve(file, only=only, changes={name: value for name, _, value in pairs})
        with watching(console(stderr=True)) as progress:
            ran = stages.run(job, progress=progress)
        lines = [f"{stage.name}: {'done' if stage.name in ran else 'was done'}, {stage.out}" for stage in job.stages]
        return Output(text=lines, data={stage.name: stage.out for stage in job.stages})
