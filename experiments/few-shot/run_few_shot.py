"""Meta-tuning and blending on eight domains: base, pool, figures; every stage goes on where it was killed.

    python experiments/few-shot/run_few_shot.py resnet18              # one core, under an hour behind the base
    python experiments/few-shot/run_few_shot.py resnet18-stages       # the same base at three stages, about three hours
    python experiments/few-shot/run_few_shot.py resnet18 --more evaluate.episodes=600
    python experiments/few-shot/run_few_shot.py vit-small --only meta_tune --more meta_tune.member=eps-6

reads the data from the places that the YAML file names, works in `runs/few-shot/`, and writes the report beside this file.
`--more STAGE.KEY=VALUE` changes a setting; a run with other settings needs a folder of its own (STAGE.out=...).
"""

import argparse
import shutil
from pathlib import Path
from typing import Any

from rich.console import Console

from loradar.cli.progress import watching
from loradar.core.config import read_file, validate
from loradar.core.types import Progress
from loradar.fewshot.config import FewShotEvalConfig, MetaTuneConfig
from loradar.fewshot.evaluate import few_shot_eval
from loradar.fewshot.meta_tune import meta_tune
from loradar.jobs.config import PretrainConfig
from loradar.jobs.pretrain import pretrain

HERE = Path(__file__).parent
STAGES = ("pretrain", "meta_tune", "evaluate")


def run(name: str, settings: dict[str, dict[str, Any]], stages: list[str], progress: Progress) -> None:
    """Every stage in turn; a base that stands is not trained again, a member that stands not tuned again."""
    if "pretrain" in stages and "pretrain" in settings:
        base = validate(PretrainConfig, settings["pretrain"])
        if not (base.out / "config.json").exists():
            pretrain(base, progress=progress)
    if "meta_tune" in stages:
        meta_tune(validate(MetaTuneConfig, settings["meta_tune"]), progress=progress)
    if "evaluate" in stages:
        page = few_shot_eval(validate(FewShotEvalConfig, settings["evaluate"]), progress=progress)
        place = HERE / name
        place.mkdir(exist_ok=True)
        for file in ("report.json", "report.md", "report.html"):
            shutil.copy(page.parent / file, place / file)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", choices=[path.stem for path in sorted(HERE.glob("*.yaml"))])
    parser.add_argument("--only", nargs="+", choices=STAGES, default=list(STAGES))
    parser.add_argument("--more", nargs="+", default=[], metavar="STAGE.KEY=VALUE")
    args = parser.parse_args()
    settings = read_file(HERE / f"{args.name}.yaml")
    for change in args.more:
        where, _, value = change.partition("=")
        stage, _, key = where.partition(".")
        settings[stage][key] = [value] if isinstance(settings[stage].get(key), list) or key == "member" else value
    with watching(Console(stderr=True)) as progress:
        run(args.name, settings, args.only, progress)


if __name__ == "__main__":
    main()
