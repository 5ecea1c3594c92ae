"""What is chosen on validation tasks, for the rows that say so: settings of a blend, and a chooser of members."""

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from loradar.core.errors import BadConfigError
from loradar.core.types import Progress
from loradar.fewshot.config import FewShotEvalConfig
from loradar.fewshot.engine import BASE, FeatureCache, Recipe, Tools, View
from loradar.fewshot.episode import Sampler
from loradar.fewshot.methods import answers, share
from loradar.fewshot.tasks import Domain, named_domain
from loradar.models import pick_device


def validation_views(
    config: FewShotEvalConfig, tools: Tools, sampler: Sampler, reported: Sequence[Domain]
) -> list[View]:
    """The tasks of one setting that settings are chosen by, and members learned to be chosen by, for all of them.

    Raises BadConfigError where they are tasks of a reported domain.
    """
    domain = named_domain(str(config.search), size=tools.base.input_size[1:], seed=config.seed)
    for one in reported:
        if one.images.fingerprint == domain.images.fingerprint:
            raise BadConfigError(
                f"search has the images of the domain {one.name!r}, whose figures it would flatter; give it other images"
            )
    bank = FeatureCache(tools=tools, domain=domain, batch_size=config.batch_size)
    return [
        View(tools=tools, bank=bank, task=domain.task(sampler, index, pick_device(config.device)))
        for index in range(config.search_episodes)
    ]


@dataclass(frozen=True, kw_only=True, eq=False)
class Chooser:
    """Names the member for a task by the mean and the spread of its support's features under the base."""

    classify: Callable[[Tensor], str]

    @classmethod
    def fitted(cls, views: Sequence[View]) -> "Chooser":
        """Learned from validation tasks, each with the member of most right answers on it, the first of equals."""
        return cls.learned(torch.stack([_summary(view) for view in views]), [_most_right(view) for view in views])

    @classmethod
    def learned(cls, summaries: Tensor, best: Sequence[str]) -> "Chooser":
        """A logistic regression of summaries (n, d) of tasks to the best member of each."""
        from sklearn.linear_model import LogisticRegression
        from sklearn.pipeline import make_pipeline
        from sklearn.preprocessing import StandardScaler

        if len(set(best)) == 1:
            return cls(classify=lambda _: best[0])
        model = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000))
        model.fit(summaries.numpy(), best)
        return cls(classify=lambda summary: str(model.predict(summary[None].numpy())[0]))

    def __call__(self, view: View) -> str:
        return self.classify(_summary(view))


def _most_right(view: View) -> str:
    labels = view.task.query_labels
    right = {name: share(answers(view, [view.fixed(name)], None), labels) for name in view.tools.pool}
    return max(right, key=lambda name: right[name])


def _summary(view: View) -> Tensor:
    features = view.bank.features(BASE, view.task.episode.support)
    return torch.cat([features.mean(0), features.std(0)]).cpu()


def search(views: Sequence[View], recipe: Recipe, progress: Progress) -> Recipe:
    """The settings of most right answers on validation tasks: one setting at a time."""
    best = recipe
    # a loss has no weight of compactness to choose
    changes = [
        one
        for one in ("top", "compactness", "beta", "rank_keep_ratio")
        if one != "compactness" or best.blending.by == one
    ]
    task = progress.task("search on validation tasks", len(changes), "settings")
    for change in changes:
        tried = [best, *_neighbours(best, change, len(views[0].tools.pool))]
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
        "beta": (1, 4, 12),
        "rank_keep_ratio": (0.5, 0.7, 0.8, 0.9, 1.0),
    }
    if change == "rank_keep_ratio":
        return [dataclasses.replace(recipe, rank_keep_ratio=value) for value in values[change]]
    return [
        dataclasses.replace(recipe, blending=dataclasses.replace(own, **{change: value}))  # type: ignore[arg-type]
        for value in values[change]
    ]
