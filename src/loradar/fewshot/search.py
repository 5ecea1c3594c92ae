"""What is chosen on validation tasks, for the rows that say so: settings of a blend, and a chooser of members."""

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from loradar.core.types import Progress
from loradar.fewshot.blending import Blending
from loradar.fewshot.config import FewShotEvalConfig
from loradar.fewshot.engine import TaskEngine
from loradar.fewshot.episode import Sampler
from loradar.fewshot.pools import BASE, FeatureCache, PoolModels
from loradar.fewshot.tasks import Domain, share


def validation_engines(
    config: FewShotEvalConfig, models: PoolModels, sampler: Sampler, domain: Domain
) -> list[TaskEngine]:
    """The tasks of one setting that settings are chosen by, and members learned to be chosen by, for all of them."""
    cache = FeatureCache.of_domain(models, domain, config.batch_size)
    return [
        TaskEngine(models=models, cache=cache, task=domain.task(sampler, index, models.device))
        for index in range(config.search_episodes)
    ]


@dataclass(frozen=True, kw_only=True, eq=False)
class Chooser:
    """Names the member for a task by the mean and the spread of its support's features under the base."""

    classify: Callable[[Tensor], str]

    @classmethod
    def fitted(cls, engines: Sequence[TaskEngine]) -> "Chooser":
        """Learned from validation tasks, each with the member of most right answers on it, the first of equals."""
        return cls.learned(
            torch.stack([_summary(engine) for engine in engines]), [_most_right(engine) for engine in engines]
        )

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

    def __call__(self, engine: TaskEngine) -> str:
        return self.classify(_summary(engine))


def _most_right(engine: TaskEngine) -> str:
    labels = engine.task.query_labels
    right = {name: share(engine.answers([engine.fixed(name)]), labels) for name in engine.models.members}
    return max(right, key=lambda name: right[name])


def _summary(engine: TaskEngine) -> Tensor:
    features = engine.cache.features(BASE, engine.task.episode.support)
    return torch.cat([features.mean(0), features.std(0)]).cpu()


def search(engines: Sequence[TaskEngine], full: Blending, progress: Progress) -> Blending:
    """The settings of most right answers on validation tasks: one setting at a time."""
    best = full
    # a loss has no weight of compactness to choose
    changes = [
        one for one in ("top", "compactness", "beta", "rank_keep_ratio") if one != "compactness" or best.score == one
    ]
    task = progress.task("search on validation tasks", len(changes), "settings")
    for change in changes:
        tried = [best, *_neighbours(best, change, len(engines[0].models.members))]
        scores = [
            sum(share(engine.answers([engine.blended(one)]), engine.task.query_labels) for engine in engines)
            for one in tried
        ]
        best = tried[scores.index(max(scores))]
        for engine in engines:
            engine.blends.clear()
        task.advance(note=repr(best))
    return best


def _neighbours(blending: Blending, change: str, members: int) -> list[Blending]:
    values: dict[str, Sequence[float]] = {
        "top": range(1, members + 1),
        "compactness": (0.2, 0.4, 0.6, 0.8, 1.0),
        "beta": (1, 4, 12),
        "rank_keep_ratio": (0.5, 0.7, 0.8, 0.9, 1.0),
    }
    return [dataclasses.replace(blending, **{change: value}) for value in values[change]]  # type: ignore[arg-type]
