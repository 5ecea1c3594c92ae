"""`loradar check`, and a file of stages: `run`, `plan`, `status`, `cancel`."""

import typer

from loradar.cli.flags import command
from loradar.cli.printing import Output, console
from loradar.cluster.config import FileConfig, RunFileConfig, RunFolderConfig
from loradar.jobs.config import CheckConfig


def register(app: typer.Typer) -> None:
    """Adds the commands to `app`."""

    @command(app, "check", CheckConfig, positional="base", example="loradar check torchvision:resnet18 --data photos/")
    def _check(config: CheckConfig) -> Output:
        """Attack a model for about a minute and say in words what breaks it, and how sure that is."""
        from loradar.cli.progress import watching
        from loradar.jobs import check

        with watching(console(stderr=True)) as progress:
            result = check.run(check.resolve(config), progress=progress)
        data = {"verdict": result.verdict, "next_steps": result.next_steps, "rows": result.report.rows}
        return Output(text=str(result).splitlines(), data=data)

    @command(
        app,
        "run",
        RunFileConfig,
        positional="file",
        example="loradar run experiments/cifar10-resnet18/stock.yaml --set seed=1 --on processes",
        resumes=True,
    )
    def _run(config: RunFileConfig) -> Output:
        """Run the stages of a file: pretrain, craft, harden, sweep, guard, few-shot, audit. A finished stage is not run again.

        With --on, stages that do not wait for one another, and the trainings and shards that a stage is made of, run at one
        time: in processes, on Ray, on Slurm.
        """
        from loradar.cli.progress import watching
        from loradar.cluster import runs

        with watching(console(stderr=True)) as progress:
            job, ran = runs.run(config, progress)
        lines = [f"{stage.name}: {'done' if stage.name in ran else 'was done'}, {stage.out}" for stage in job.stages]
        return Output(text=lines, data={stage.name: stage.out for stage in job.stages})

    @command(app, "plan", FileConfig, positional="file", example="loradar plan experiments/cifar10-resnet18/stock.yaml")
    def _plan(config: FileConfig) -> Output:
        """Show the tasks that a file of stages comes to, what each waits for, and about how long they take."""
        from loradar.cli import show_tasks
        from loradar.cluster import runs

        return show_tasks.planned(*runs.plan(config))

    @command(app, "status", RunFolderConfig, positional="out", example="loradar status runs/mine-0")
    def _status(config: RunFolderConfig) -> Output:
        """Show how far the tasks of a run are, who does them, and what went wrong."""
        from loradar.cli import show_tasks
        from loradar.jobs.tasks import read_plan

        return show_tasks.standing(read_plan(config.out))

    @command(app, "cancel", RunFolderConfig, positional="out", example="loradar cancel runs/mine-0")
    def _cancel(config: RunFolderConfig) -> Output:
        """Stop a run, wherever its tasks are. The same `loradar run` goes on with it."""
        from loradar.cluster import runs

        running = runs.cancel(config.out)
        text = f"stopped: {', '.join(running)}" if running else f"nothing runs in {config.out}"
        return Output(text=[text], data={"stopped": running})
