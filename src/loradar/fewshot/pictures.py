"""What the few-shot report shows beside its figures: tasks, and who was blended where."""

from collections.abc import Mapping, Sequence

from loradar.evaluation import png
from loradar.fewshot.engine import FeatureCache, Recipe, Tools, View
from loradar.fewshot.episode import Sampler
from loradar.fewshot.methods import FULL, answers
from loradar.fewshot.tasks import Domain
from loradar.report.few_shot import BlendWeights, Shown, TaskPicture

QUERIES = 15


def blends_of(
    found: Mapping[tuple[str, str], Sequence[Mapping[str, Mapping[str, float]]]], key: str
) -> list[BlendWeights]:
    """The mean weight of each member, for each domain and setting."""
    blends = []
    for (domain, setting), results in found.items():
        weights = [result[key] for result in results if key in result]
        if weights:
            mean = {name: sum(one[name] for one in weights) / len(weights) for name in weights[0]}
            blends.append(BlendWeights(domain=domain, setting=setting, episodes=len(weights), members=mean))
    return blends


def task_pictures(
    tools: Tools, domains: Sequence[Domain], setting: tuple[str, Sampler], recipe: Recipe, batch_size: int
) -> list[TaskPicture]:
    """The first task of each domain: its support, some of its queries, and what the full method answers."""
    name, sampler = setting
    device = next(tools.features.parameters()).device
    shown = []
    for domain in domains:
        task = domain.task(sampler, 0, device)
        view = View(tools=tools, bank=FeatureCache(tools=tools, domain=domain, batch_size=batch_size), task=task)
        words = [domain.images.classes[label] for label in task.episode.classes]
        answered = answers(view, [view.blended(recipe)], None)
        step = max(1, len(answered) // QUERIES)
        shown.append(
            TaskPicture(
                domain=domain.name,
                setting=name,
                method=FULL,
                support=tuple(
                    Shown(picture=png(x), label=words[y])
                    for x, y in zip(task.support[:25], task.support_labels.tolist(), strict=False)
                ),
                query=tuple(
                    Shown(
                        picture=png(task.query[i]),
                        label=words[int(task.query_labels[i])],
                        answer=words[int(answered[i])],
                    )
                    for i in range(0, len(answered), step)
                ),
                weights=view.weights(recipe),
            )
        )
    return shown
