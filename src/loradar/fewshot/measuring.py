"""The figures of few-shot tasks: every method on the same tasks, clean, attacked, corrupted and fine-tuned."""

import copy
import dataclasses
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from pydantic import TypeAdapter, ValidationError
from torch import Tensor

from loradar.core.files import read_regular, write_atomically
from loradar.core.old_attacks import spec_of_repr
from loradar.core.types import Attack, Images, Progress
from loradar.data import corrupt, varied
from loradar.evaluation import NO_ATTACK
from loradar.evaluation.corruptions import corruption_of
from loradar.fewshot.blending import Blending
from loradar.fewshot.config import FewShotEvalConfig
from loradar.fewshot.engine import ModelsKey, TaskEngine
from loradar.fewshot.episode import Sampler
from loradar.fewshot.finetune import FineTuning
from loradar.fewshot.heads import CENTROID
from loradar.fewshot.methods import TUNED, Method, Peer, is_main, least_right, oracle, untuned
from loradar.fewshot.pools import BASE, FeatureCache, PoolModels, features_of
from loradar.fewshot.tasks import Domain, share
from loradar.report.few_shot import CORRUPTIONS, FewShotRow

Results = dict[str, dict[str, float]]
"""Attack (or "none", "corruptions", "weights") to method to the share of right answers."""
WEIGHTS = "weights"
_RESULTS = TypeAdapter(Results)


@dataclass(frozen=True, kw_only=True, eq=False)
class Measuring:
    """Every method on every task; the figures of a task are kept below `directory`, and not measured again."""

    config: FewShotEvalConfig
    models: PoolModels
    methods: tuple[Method, ...]
    peers: tuple[Peer, ...]
    attacks: tuple[Attack, ...]
    sweep_attacks: tuple[Attack, ...]
    full: Blending
    directory: Path

    def domain(
        self, cache: FeatureCache, domain: Domain, setting: str, sampler: Sampler, progress: Progress
    ) -> list[Results]:
        """The figures of every task of a domain and setting, from disk where they are there."""
        config = self.config
        count = max(config.episodes, config.attacked_episodes, config.corrupted_episodes, config.fine_tune_episodes)
        bar = progress.task(f"{domain.name} {setting}", count, "tasks")
        found = []
        for index in range(count):
            path = self.directory / f"{domain.name}-{setting}" / f"{index:04d}.json"
            known = _known(path, progress)
            missing = [what for what in self.wanted(index) if what not in known]
            if missing:
                task = domain.task(sampler, index, self.models.device)
                engine = TaskEngine(models=self.models, cache=cache, task=task)
                known |= {what: self.measure(what, engine, index) for what in missing}
                write_atomically(path, json.dumps(known).encode())
            found.append(known)
            bar.advance()
        return found

    def wanted(self, index: int) -> list[str]:
        """What is measured on the task of this number."""
        config = self.config
        wanted = [WEIGHTS, NO_ATTACK] if index < config.episodes else []
        wanted += [CORRUPTIONS] if index < config.corrupted_episodes else []
        wanted += [attack.spec for attack in self.every_attack] if index < config.attacked_episodes else []
        return wanted + ([TUNED] if index < config.fine_tune_episodes else [])

    def measure(self, what: str, engine: TaskEngine, index: int) -> dict[str, float]:
        """Method to the share of right answers; for "weights", member to its share in the full method's blend."""
        labels = engine.task.query_labels
        if what == WEIGHTS:
            return engine.weights(self.full)
        if what == TUNED:
            return {TUNED: self._tuned(engine, index)}
        if what == NO_ATTACK:
            own = {one.name: share(engine.answers(one.models(engine)), labels) for one in self.methods}
            own |= oracle(own, self.full)
            return own | self._peers(
                engine,
                labels,
                on_base=engine.cache.features(BASE, engine.task.episode.query),
                on_blend=engine.task.query,
            )
        if what == CORRUPTIONS:
            kind, severity = corruption_of(index)
            base = self.models.fixed[BASE]
            query = corrupt(engine.task.query, kind, severity, seed=self.config.seed)
            own = {
                one.name: share(engine.answers(one.models(engine), query), labels)
                for one in self.methods
                if one.corrupted
            }
            own |= oracle(own, self.full)
            return own | self._peers(engine, labels, on_base=features_of(base, query), on_blend=query)
        return self._attacked(next(attack for attack in self.every_attack if attack.spec == what), engine)

    @property
    def every_attack(self) -> tuple[Attack, ...]:
        return (*self.attacks, *self.sweep_attacks)

    def _attacked(self, attack: Attack, engine: TaskEngine) -> dict[str, float]:
        """Each method under the attack on its own classifier, or the main ones for a curve; the first queries of each class."""
        is_curve = attack not in self.attacks
        attacked = [one for one in self.methods if one.attacked and (not is_curve or is_main(one.name, self.full))]
        labels = engine.task.query_labels
        rows = torch.cat(
            [(labels == c).nonzero().squeeze(1)[: self.config.attacked_query] for c in range(engine.task.way)]
        )
        x, y = engine.task.query[rows], labels[rows]
        crafted: dict[ModelsKey, Images] = {}
        found = {}
        for one in attacked:
            own = one.models(engine)
            # a transductive head is another classifier for an attack that goes on with some images alone
            if any(model.head.transduction for model in own) and not attack.traits.whole_batches:
                continue
            found[one.name] = least_right(engine, own, attack, x, y, crafted)
        if is_curve:
            return found
        found |= oracle(found, self.full)
        base = self.models.fixed[BASE]
        return found | self._peers(engine, y, on_base=features_of(base, crafted[((BASE, CENTROID),)]))

    def _peers(
        self, engine: TaskEngine, labels: Tensor, *, on_base: Tensor, on_blend: Images | None = None
    ) -> dict[str, float]:
        """`on_base` are the query's features under the base, `on_blend` its images. Without them, as under an attack, which
        would have to be one on the peer itself, peers on the blend are left out."""
        support, found = engine.cache.features(BASE, engine.task.episode.support), {}
        for peer in self.peers:
            if not peer.on_blend:
                found[peer.name] = peer.right(support, engine.task.support_labels, on_base, labels)
            elif on_blend is not None:
                blend = engine.blended(self.full)
                seen = [features_of(blend.features, x) for x in (engine.task.support, on_blend)]
                found[peer.name] = peer.right(seen[0], engine.task.support_labels, seen[1], labels)
        return found

    def _tuned(self, engine: TaskEngine, index: int) -> float:
        """The full method's blend, then fine-tuned on the support."""
        blend = engine.blended(self.full)
        model, _ = FineTuning()(
            lambda: copy.deepcopy(blend.features),
            engine.task.support,
            engine.task.support_labels,
            way=engine.task.way,
            augment=varied,
            seed=self.config.seed + index,
        )
        tuned = dataclasses.replace(blend, name="tuned", features=model, is_fixed=False)
        return share(engine.answers([tuned]), engine.task.query_labels)

    def rows(
        self, domain: str, setting: str, results: Sequence[Results], *, less_untuned: bool = False
    ) -> list[FewShotRow]:
        """A row for each method and attack that has two tasks or more; `less_untuned`: of the differences, task by task, from
        the base under the full method's head."""
        shares: dict[tuple[str, str], list[float]] = {}
        for result in results:
            for what, by_method in result.items():
                if what == WEIGHTS or (less_untuned and untuned(self.full) not in by_method):
                    continue
                before = by_method[untuned(self.full)] if less_untuned else 0
                for method, right in by_method.items():
                    shares.setdefault((method, NO_ATTACK if what == TUNED else what), []).append(right - before)
        return [
            FewShotRow.of(values, method=method, domain=domain, setting=setting, attack=attack, seed=self.config.seed)
            for (method, attack), values in shares.items()
            if len(values) > 1
        ]


def _known(path: Path, progress: Progress) -> Results:
    """The figures of a task that are on disk; attacks of an earlier version go by their reprs. None of a damaged file."""
    if not path.exists():
        return {}
    try:
        return {spec_of_repr(what): shares for what, shares in _RESULTS.validate_json(read_regular(path)).items()}
    except (OSError, ValueError) as error:
        reason = error.errors()[0]["msg"] if isinstance(error, ValidationError) else error
        progress.message(f"{path} is damaged ({reason}); its task is measured again")
        return {}
