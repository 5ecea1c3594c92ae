"""Settings of a blend chosen on validation tasks, for the rows that say so."""

import dataclasses
from collections.abc import Sequence

from loradar.config import FewShotEvalConfig
from loradar.core.types import Progress
from loradar.fewshot import Sampler
from loradar.recipes.few_shot_methods import answers, share
from loradar.recipes.few_shot_models import Bank, Recipe, Tools, View
from loradar.recipes.tasks import named_domain
from loradar.recipes.workbench import pick_device


def search(
    config: FewShotEvalConfig, tools: Tools, recipe: Recipe, samplers: dict[str, Sampler], progress: Progress
) -> Recipe:
    """The settings of most right answers on validation tasks: one setting at a time."""
    domain = named_domain(str(config.search), size=tools.base.input_size[1:], seed=config.seed)
    bank = Bank(tools=tools, domain=domain, batch_size=config.batch_size)
    sampler = next(iter(samplers.values()))
    best = recipe
    views = [
        View(tools=tools, bank=bank, task=domain.task(sampler, index, pick_device(config.device)))
        for index in range(config.search_episodes)
    ]
    # a loss has no weight of compactness to choose
    changes = [
        one for one in ("top", "compactness", "sharpness", "keep") if one != "compactness" or best.blending.by == one
    ]
    task = progress.task("search on validation tasks", len(changes), "settings")
    for change in changes:
        tried = [best, *_neighbours(best, change, len(tools.pool))]
        scores = [
            sum(share(answers(view, [view.blended(one)], None), view.task.query_labels) for view in views)
            for one in tried
        ]
        best = tried[scores.index(max(scores))]
        for view in views:
            view.made.clear()
        task.advance(note=repr(best.blending))
    return best


def _neighbours(recipe: Recipe, change: str, members: int) -> list[Recipe]:
    own = recipe.blending
    values: dict[str, Sequence[float]] = {
        "top": range(1, members + 1),
        "compactness": (0.2, 0.4, 0.6, 0.8, 1.0),
        "sharpness": (1, 4, 12),
        "keep": (0.5, 0.7, 0.8, 0.9, 1.0),
    }
    if change == "keep":
        return [dataclasses.replace(recipe, keep=value) for value in values[change]]
    return [
        dataclasses.replace(recipe, blending=dataclasses.replace(own, **{change: value}))  # type: ignore[arg-type]
        for value in values[change]
    ]
