"""Few-shot evaluation: every method on the same tasks, clean, attacked and corrupted; what was measured is kept."""

import copy
import dataclasses
import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from loradar.adapters import fingerprint
from loradar.attacks import named_attacks
from loradar.core.config import check_run_settings
from loradar.core.errors import BadConfigError
from loradar.core.files import make_folder, write_atomically
from loradar.core.old_attacks import spec_of_repr
from loradar.core.types import Attack, Images, NullProgress, Progress
from loradar.data import corrupt, varied
from loradar.evaluation import versions
from loradar.evaluation.corruptions import corruption_of
from loradar.evaluation.measure import NO_ATTACK
from loradar.fewshot.config import FewShotEvalConfig
from loradar.fewshot.engine import BASE, FeatureCache, Method, Recipe, Tools, View, VotersKey
from loradar.fewshot.episode import Sampler, parse_setting
from loradar.fewshot.finetune import FineTuning
from loradar.fewshot.heads import CENTROID
from loradar.fewshot.methods import (
    FULL,
    MAIN_METHODS,
    NO_TUNING,
    TUNED,
    Peer,
    ablation_chain,
    answers,
    least_right,
    methods,
    peers,
    recipe_of,
    share,
)
from loradar.fewshot.notes import notes_of
from loradar.fewshot.pictures import blends_of, task_pictures
from loradar.fewshot.pools import base_of, open_pool
from loradar.fewshot.search import Chooser, search, validation_views
from loradar.fewshot.tasks import Domain, named_domain
from loradar.models import open_base, pick_device
from loradar.report.few_shot import CORRUPTIONS, FewShotRow, FewShotSection, averaged
from loradar.report.files import write_report
from loradar.report.schema import Report

Results = dict[str, dict[str, float]]
"""Attack (or "none", "corruptions", "weights") to method to the share of right answers."""
WEIGHTS = "weights"


def few_shot_eval(config: FewShotEvalConfig, *, progress: Progress | None = None) -> Path:
    """Measures, writes report.json, report.md and report.html into `config.out`; returns the page's path.

    Every task leaves its figures below `config.out/work`, and is not measured again. Raises LoradarError, for what can be
    known by then before the long work.
    """
    asked = [*config.attacks, *config.sweep_attacks]
    attacks = list(named_attacks(asked).values()) if asked and config.attacked_episodes else []
    samplers = {setting: parse_setting(setting, query=config.query) for setting in config.setting}
    pool = open_pool(config.pool)
    base = open_base(config.base or base_of(config.pool), config.device)
    size = base.input_size[1:]
    tools = Tools.of(base, pool, config.pool, precision=config.precision, copies=config.copies, seed=config.seed)
    domains = [named_domain(text, size=size, seed=config.seed) for text in config.domain]
    _check(config, domains, samplers)
    views = validation_views(config, tools, next(iter(samplers.values())), domains) if config.search else []
    make_folder(config.out)
    check_run_settings(config, "episodes", "attacked_episodes", "corrupted_episodes", "fine_tune_episodes", "precision")
    progress = progress or NullProgress()
    recipe = recipe_of(config)
    choose = Chooser.fitted(views) if views else None
    searched = search(views, recipe, progress) if views else None
    measuring = _Measuring(
        config=config,
        tools=tools,
        methods=tuple(methods(tools, recipe, config, searched=searched, choose=choose)),
        peers=tuple(peers()),
        attacks=tuple(attacks[: len(config.attacks)]),
        sweep_attacks=tuple(attacks[len(config.attacks) :]),
        recipe=recipe,
        directory=config.out / "work" / _identity(tools),
    )
    rows: list[FewShotRow] = []
    found: dict[tuple[str, str], list[Results]] = {}
    for domain in domains:
        bank = FeatureCache(tools=tools, domain=domain, batch_size=config.batch_size)
        for setting, sampler in samplers.items():
            results = measuring.domain(bank, setting, sampler, progress)
            found[domain.name, setting] = results
            rows += measuring.rows(domain.name, setting, results)
    report = _report(measuring, domains, samplers, rows, found, searched)
    return write_report(report, config.out)


def _report(
    measuring: "_Measuring",
    domains: Sequence[Domain],
    samplers: dict[str, Sampler],
    rows: Sequence[FewShotRow],
    found: dict[tuple[str, str], list[Results]],
    searched: Recipe | None,
) -> Report:
    config, tools, recipe = measuring.config, measuring.tools, measuring.recipe
    inside = [domain.name for domain in domains if domain.name in config.in_domain]
    outside = [domain.name for domain in domains if domain.name not in config.in_domain]
    every = [*averaged(rows, outside, "out of domain"), *averaged(rows, inside, "in domain")] if inside else []
    every = [*(every or averaged(rows, outside, "of all domains")), *rows]
    return Report(
        title="Few-shot report",
        rows=(),
        base=tools.base.description | {"fingerprint": fingerprint(tools.base.model)},
        data={domain.name: _describe(domain) for domain in domains},
        versions=versions(),
        settings=json.loads(config.model_dump_json(exclude={"out", "domain", "base", "pool", "search"}))
        | {"searched": repr(searched) if searched else None},
        few_shot=FewShotSection(
            rows=tuple(every),
            full=FULL,
            reference=NO_TUNING,
            pool={name: _member(adapter.card) for name, adapter in tools.pool.items()},
            ablation_chain={s: m for s, m in ablation_chain(recipe).items() if m in {row.method for row in rows}},
            blends=tuple(blends_of(found, WEIGHTS)),
            tasks=tuple(task_pictures(tools, domains, next(iter(samplers.items())), recipe, config.batch_size)),
        ),
        notes=notes_of(config, recipe, has_peers=bool(measuring.peers)),
    )


def _check(config: FewShotEvalConfig, domains: Sequence[Domain], samplers: dict[str, Sampler]) -> None:
    """Raises BadConfigError, BadDataError for what would only be found after long work."""
    names = [domain.name for domain in domains]
    if len(set(names)) != len(names):
        raise BadConfigError(f"domains are called {names}; give each another name")
    for name in config.in_domain:
        if name not in names:
            raise BadConfigError(f"in_domain names {name!r}; expected one of the domains: {', '.join(names)}")
    if config.attacked_episodes and config.attacked_query > config.query:
        raise BadConfigError(f"attacked_query is {config.attacked_query}; expected at most query, {config.query}")
    for domain in domains:
        for sampler in samplers.values():
            domain.episode(sampler, 0)


def _identity(tools: Tools) -> str:
    """Names the weights that figures belong to: other weights, other figures."""
    marks = "".join(fingerprint(model) for model in tools.fixed.values())
    return hashlib.sha256(marks.encode()).hexdigest()[:12]


def _describe(domain: Domain) -> dict[str, Any]:
    images = domain.images
    return {
        "images": len(images),
        "classes": len(torch.unique(images.labels)),
        "fingerprint": images.fingerprint,
    }


def _upgraded(results: Results) -> Results:
    """Figures of a run of before, whose attacks go by their reprs."""
    return {spec_of_repr(what): by_method for what, by_method in results.items()}


def _member(card: Any) -> dict[str, Any]:
    return {"trained_against": card.trained_against, "rank": card.rank, "epoch": card.selected_epoch, **card.data}


@dataclass(frozen=True, kw_only=True, eq=False)
class _Measuring:
    config: FewShotEvalConfig
    tools: Tools
    methods: tuple[Method, ...]
    peers: tuple[Peer, ...]
    attacks: tuple[Attack, ...]
    sweep_attacks: tuple[Attack, ...]
    recipe: Recipe
    directory: Path

    def domain(self, bank: FeatureCache, setting: str, sampler: Sampler, progress: Progress) -> list[Results]:
        """The figures of every task of a domain and setting, from disk where they are there."""
        config = self.config
        count = max(config.episodes, config.attacked_episodes, config.corrupted_episodes, config.fine_tune_episodes)
        task = progress.task(f"{bank.domain.name} {setting}", count, "tasks")
        found = []
        for index in range(count):
            path = self.directory / f"{bank.domain.name}-{setting}" / f"{index:04d}.json"
            known: Results = _upgraded(json.loads(path.read_text())) if path.exists() else {}
            missing = [what for what in self.wanted(index) if what not in known]
            if missing:
                view = View(
                    tools=self.tools, bank=bank, task=bank.domain.task(sampler, index, pick_device(config.device))
                )
                known |= {what: self.measure(what, view, index) for what in missing}
                write_atomically(path, json.dumps(known).encode())
            found.append(known)
            task.advance()
        return found

    def wanted(self, index: int) -> list[str]:
        """What is measured on the task of this number."""
        config = self.config
        wanted = [WEIGHTS, NO_ATTACK] if index < config.episodes else []
        wanted += [CORRUPTIONS] if index < config.corrupted_episodes else []
        wanted += [attack.spec for attack in self.every_attack] if index < config.attacked_episodes else []
        return wanted + ([TUNED] if index < config.fine_tune_episodes else [])

    def measure(self, what: str, view: View, index: int) -> dict[str, float]:
        """Method to the share of right answers; for "weights", member to its share in the full method's blend."""
        labels = view.task.query_labels
        if what == WEIGHTS:
            return view.weights(self.recipe)
        if what == TUNED:
            return {TUNED: self._tuned(view, index)}
        if what == NO_ATTACK:
            own = {one.name: share(answers(view, one.voters(view), None), labels) for one in self.methods}
            return own | self._peers(view, labels, on_base=view.clean_base_query, on_blend=view.task.query)
        if what == CORRUPTIONS:
            kind, severity = corruption_of(index)
            query = corrupt(view.task.query, kind, severity, seed=self.config.seed)
            own = {
                one.name: share(answers(view, one.voters(view), query), labels) for one in self.methods if one.corrupted
            }
            return own | self._peers(view, labels, on_base=view.through(view.fixed(BASE), query), on_blend=query)
        return self._attacked(next(attack for attack in self.every_attack if attack.spec == what), view)

    @property
    def every_attack(self) -> tuple[Attack, ...]:
        return (*self.attacks, *self.sweep_attacks)

    def _attacked(self, attack: Attack, view: View) -> dict[str, float]:
        """Each method under the attack on its own classifier, or the main ones for a curve; the first queries of each class."""
        is_curve = attack not in self.attacks
        attacked = [one for one in self.methods if one.attacked and (not is_curve or one.name in MAIN_METHODS)]
        labels = view.task.query_labels
        rows = torch.cat(
            [(labels == c).nonzero().squeeze(1)[: self.config.attacked_query] for c in range(view.task.way)]
        )
        x, y = view.task.query[rows], labels[rows]
        crafted: dict[VotersKey, Images] = {}
        found = {}
        for one in attacked:
            own = one.voters(view)
            # voters that answer together are another classifier for an attack that goes on with some images alone
            if any(voter.head.transduction for voter in own) and not attack.traits.whole_batches:
                continue
            found[one.name] = least_right(view, own, attack, x, y, crafted)
        if is_curve:
            return found
        return found | self._peers(view, y, on_base=view.through(view.fixed(BASE), crafted[((BASE, CENTROID),)]))

    def _peers(
        self, view: View, labels: Tensor, *, on_base: Tensor, on_blend: Images | None = None
    ) -> dict[str, float]:
        """`on_base` are the query's features under the base, `on_blend` its images. Without them, as under an attack, which
        would have to be one on the peer itself, peers on the blend are left out."""
        support, found = view.bank.features(BASE, view.task.episode.support), {}
        for peer in self.peers:
            if not peer.on_blend:
                found[peer.name] = peer.right(support, view.task.support_labels, on_base, labels)
            elif on_blend is not None:
                blend = view.blended(self.recipe)
                seen = [view.through(blend, x) for x in (view.task.support, on_blend)]
                found[peer.name] = peer.right(seen[0], view.task.support_labels, seen[1], labels)
        return found

    def _tuned(self, view: View, index: int) -> float:
        """The full method's blend, then fine-tuned on the support."""
        blend = view.blended(self.recipe)
        model, _ = FineTuning()(
            lambda: copy.deepcopy(blend.model),
            view.task.support,
            view.task.support_labels,
            way=view.task.way,
            augment=varied,
            seed=self.config.seed + index,
        )
        voter = dataclasses.replace(blend, name="tuned", model=model, is_fixed=False)
        return share(answers(view, [voter], None), view.task.query_labels)

    def rows(self, domain: str, setting: str, results: Sequence[Results]) -> list[FewShotRow]:
        """A row for each method and attack that has two tasks or more."""
        shares: dict[tuple[str, str], list[float]] = {}
        for result in results:
            for what, by_method in result.items():
                if what != WEIGHTS:
                    for method, share in by_method.items():
                        shares.setdefault((method, NO_ATTACK if what == TUNED else what), []).append(share)
        return [
            FewShotRow.of(values, method=method, domain=domain, setting=setting, attack=attack, seed=self.config.seed)
            for (method, attack), values in shares.items()
            if len(values) > 1
        ]
