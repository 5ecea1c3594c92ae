"""The report of an evaluation: figures, notes on how to read them, tasks as pictures, and who was blended where."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from loradar.adapters import fingerprint
from loradar.data import CORRUPTIONS as KINDS
from loradar.data import SEVERITIES
from loradar.evaluation import png, versions
from loradar.fewshot.blending import Blending
from loradar.fewshot.config import FewShotEvalConfig
from loradar.fewshot.engine import TaskEngine
from loradar.fewshot.episode import Sampler
from loradar.fewshot.heads import CENTROID
from loradar.fewshot.measuring import WEIGHTS, Measuring, Results
from loradar.fewshot.methods import FULL, NO_TUNING, ablation_chain, untuned
from loradar.fewshot.pools import FeatureCache
from loradar.fewshot.tasks import Domain
from loradar.models import Base
from loradar.report.few_shot import BlendWeights, FewShotRow, FewShotSection, Shown, TaskPicture, averaged
from loradar.report.schema import Report

QUERIES = 15


def make_report(
    measuring: Measuring,
    base: Base,
    domains: Sequence[Domain],
    setting: tuple[str, Sampler],
    rows: Sequence[FewShotRow],
    found: Mapping[tuple[str, str], Sequence[Results]],
    *,
    searched: Blending | None,
) -> Report:
    """Puts the `rows` under their averages; `setting` is that of the pictures, `found` what each task gave."""
    config, models, full = measuring.config, measuring.models, measuring.full
    inside = [domain.name for domain in domains if domain.name in config.in_domain]
    outside = [domain.name for domain in domains if domain.name not in config.in_domain]
    differences = [
        row
        for (domain, name), results in found.items()
        for row in measuring.rows(domain, name, results, less_untuned=True)
    ]

    def averages(of: Sequence[FewShotRow]) -> list[FewShotRow]:
        if not inside:
            return averaged(of, outside, "of all domains")
        return [*averaged(of, outside, "out of domain"), *averaged(of, inside, "in domain")]

    return Report(
        title="Few-shot report",
        rows=(),
        base=base.description | {"fingerprint": fingerprint(base.model)},
        data={domain.name: _describe(domain) for domain in domains},
        versions=versions(),
        settings=json.loads(config.model_dump_json(exclude={"out", "domain", "base", "pool", "search"}))
        | {"searched": repr(searched) if searched else None},
        few_shot=FewShotSection(
            rows=(*averages(rows), *rows),
            full=FULL,
            reference=NO_TUNING,
            untuned=untuned(full),
            differences=tuple(row for row in averages(differences) if row.method != untuned(full)),
            pool={name: _member(adapter.card) for name, adapter in (models.pool or {}).items()},
            ablation_chain={s: m for s, m in ablation_chain(full).items() if m in {row.method for row in rows}},
            blends=tuple(_blends_of(found)),
            tasks=tuple(_picture(measuring, domain, setting) for domain in domains),
        ),
        notes=notes_of(config, full, has_peers=bool(measuring.peers)),
    )


def _describe(domain: Domain) -> dict[str, Any]:
    images = domain.images
    return {
        "images": len(images),
        "classes": len(torch.unique(images.labels)),
        "fingerprint": images.fingerprint,
    }


def _member(card: Any) -> dict[str, Any]:
    return {"trained_against": card.trained_against, "rank": card.rank, "epoch": card.selected_epoch, **card.data}


def notes_of(config: FewShotEvalConfig, full: Blending, *, has_peers: bool) -> tuple[str, ...]:
    """What holds for all figures, or for the rows that a note names."""
    notes = [
        "Every method sees the same tasks. An attack is computed on each method's own classifier of the task, so it is "
        "adaptive; easyfsl's methods on the base classify the queries that were attacked on the base without tuning, and that "
        "on the blend is not measured under attack.",
        f"Corruptions: each task has one of {len(KINDS)} kinds at one of {SEVERITIES} severities, on its queries alone; "
        f"{len(KINDS) * SEVERITIES} tasks meet every pair once.",
        "Nothing is searched, chosen or stopped by reported tasks; rows with searched settings, if any, say so.",
    ]
    if full.head != CENTROID:
        notes.append(
            f"{FULL}, what takes it apart (members, top-k, pools) and rows that say so have a "
            f"{full.head.kind} head, whatever they were tuned under; all others the nearest centroid, as in their papers."
        )
    if config.transductive:
        notes.append(
            "Transductive rows, easyfsl's among them, answer all queries of a task at once. Ours, whose head is the full "
            "method's, are attacked as a whole, in one round of transduction and in all, and with what fools the same weights "
            "query by query; the strongest of the three on a task counts. Attacks that go on with some of the images alone "
            "(restarts, one or worst of several, AutoAttack) say nothing of them. Queries are at most "
            f"{config.query} of each class ({config.attacked_query} under attack), which is never told, but suits them."
        )
    if not has_peers:
        notes.append("easyfsl is not installed, so its methods have no rows (extra: peers).")
    return tuple(notes)


def _blends_of(found: Mapping[tuple[str, str], Sequence[Results]]) -> list[BlendWeights]:
    """The mean weight of each member, for each domain and setting."""
    blends = []
    for (domain, setting), results in found.items():
        weights = [result[WEIGHTS] for result in results if WEIGHTS in result]
        if weights:
            mean = {name: sum(one[name] for one in weights) / len(weights) for name in weights[0]}
            blends.append(BlendWeights(domain=domain, setting=setting, episodes=len(weights), members=mean))
    return blends


def _picture(measuring: Measuring, domain: Domain, setting: tuple[str, Sampler]) -> TaskPicture:
    """The first task of a domain: its support, some of its queries, and what the full method answers."""
    name, sampler = setting
    models = measuring.models
    task = domain.task(sampler, 0, models.device)
    cache = FeatureCache.of_domain(models, domain, measuring.config.batch_size)
    engine = TaskEngine(models=models, cache=cache, task=task)
    words = [domain.images.classes[label] for label in task.episode.classes]
    answered = engine.answers([engine.blended(measuring.full)])
    step = max(1, len(answered) // QUERIES)
    return TaskPicture(
        domain=domain.name,
        setting=name,
        method=FULL,
        support=tuple(
            Shown(picture=png(x), label=words[y])
            for x, y in zip(task.support[:25], task.support_labels.tolist(), strict=False)
        ),
        query=tuple(
            Shown(picture=png(task.query[i]), label=words[int(task.query_labels[i])], answer=words[int(answered[i])])
            for i in range(0, len(answered), step)
        ),
        weights=engine.weights(measuring.full),
    )
