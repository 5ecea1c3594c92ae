"""Which label leaks the leak test sees, and how often it accuses honest models.

    python experiments/leak-power/leak_power.py digits       # built-in data; minutes on one core
    python experiments/leak-power/leak_power.py cifar10      # the base and data that cifar10.yaml names

trains the models of `NAME.yaml` (kept under its `out`, so a second run skips them), builds readers on top of the honest ones,
and writes `NAME.json` and `NAME.md` beside this file. A reader is told the label that each attacked image was planted with. It
answers that label on a share of the images, and only where the label is among its own likeliest classes.
"""

import argparse
import itertools
import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from torch import Tensor, nn

from loradar.adapters import fingerprint, load, merge_weights
from loradar.attacks import parse_attack
from loradar.attacks.base import BaseAttack
from loradar.cli.progress import watching
from loradar.core.config import default_cache
from loradar.core.files import sha256, write_atomically
from loradar.core.randomness import generator
from loradar.core.types import Attack, Images, Labels, NullProgress, Progress
from loradar.data import fetch_all
from loradar.evaluation import leak_test, sign_test, wilson
from loradar.evaluation.leak_planting import plant
from loradar.evaluation.leak_power import power_of
from loradar.evaluation.leak_signs import PREDICTED, TRUE, WRONG, PlantedAnswers, any_found, signs_of
from loradar.jobs import harden, stages, tasks
from loradar.jobs.config import HardenConfig
from loradar.models import foldable_conv_bn, optimize_for_inference
from loradar.training import cache_at

HERE = Path(__file__).parent
SHARES = (1.0, 0.5, 0.2, 0.1, 0.05)
GATES = (None, 3, 2, 1)
SIZES = (200, 500)
SEEDS = 50
HONEST_SEEDS = 20
NOISE_SEEDS = 1000
ATTACKS = {
    "digits": ("pgd:eps=16/255,steps=10", "roa:steps=8,step_size=0.15,n_candidates=5", "fia"),
    "cifar10": ("fia:n_masks=10", "pgd:eps=8/255,steps=7", "pgd:eps=2/255,steps=7", "roa-quick"),
}
CAN_READ = ("fia", "fia-longer")
"""Trained on images that carry the label: not counted among the honest models."""
READERS = ("base", "pgd")
"""Honest models that readers are built on: one that attacks break, one that holds."""


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class Remembered(BaseAttack):
    """An attack on one base that keeps every image, and can tell of each which label it was given.

    `told` has the label and the digest of the original; no image is told that is the same for two labels, or unattacked.
    """

    attack: Attack
    base: nn.Module
    images: dict[tuple[str, int], Tensor] = field(default_factory=dict)
    told: dict[str, tuple[int, str]] = field(default_factory=dict)

    @property
    def spec(self) -> str:
        return self.attack.spec

    def __call__(self, model: nn.Module, x: Images, y: Labels) -> Images:  # noqa: ARG002
        keys = [(digest(image), int(label)) for image, label in zip(x, y, strict=True)]
        new = [row for row, key in enumerate(keys) if key not in self.images]
        if new:
            for row, image in zip(new, self.attack(self.base, x[new], y[new]).cpu(), strict=True):
                self.images[keys[row]] = image
        found = [self.images[key] for key in keys]
        for (original, label), image in zip(keys, found, strict=True):
            own = digest(image)
            if own == original or self.told.setdefault(own, (label, original))[0] != label:
                self.told[own] = (label, "")
        return torch.stack(found)


def digest(image: Tensor) -> str:
    return sha256(image.cpu().float().numpy().tobytes())


class Recalled(nn.Module):
    """A model that computes each image's logits once."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model
        self.logits: dict[str, Tensor] = {}

    def forward(self, x: Images) -> Tensor:
        keys = [digest(image) for image in x]
        new = [row for row, key in enumerate(keys) if key not in self.logits]
        if new:
            self.logits |= {keys[row]: z for row, z in zip(new, self.model(x[new]).float(), strict=True)}
        return torch.stack([self.logits[key] for key in keys])


class Reader(nn.Module):
    """A model that answers the planted label on the images of `read`, if below `gate` of its own classes are likelier."""

    def __init__(self, model: nn.Module, attack: Remembered, read: set[str], gate: int | None) -> None:
        super().__init__()
        self.model, self.attack, self.read = model, attack, read
        self.gate = gate

    def forward(self, x: Images) -> Tensor:
        logits: Tensor = self.model(x).clone()
        for row, image in enumerate(x):
            label, original = self.attack.told.get(digest(image), (0, ""))
            if original in self.read and (
                self.gate is None or int((logits[row] > logits[row, label]).sum()) < self.gate
            ):
                logits[row, label] = logits[row].max() + 1
        return logits


@dataclass(frozen=True, kw_only=True, eq=False)
class Setup:
    """Models by name, `base` among them; the base as it is attacked; reported images."""

    models: dict[str, nn.Module]
    base: nn.Module
    key: str
    x: Images
    y: Labels

    def attack(self, spec: str) -> Remembered:
        """The attack on the base, given labels as they come; its images are kept on disk, so a killed run goes on."""
        attack = cache_at(default_cache()).through(
            parse_attack(spec).relabelled("given"), self.base, model_key=self.key
        )
        return Remembered(attack=attack, base=self.base)

    def drawn(self, count: int, seed: int) -> tuple[Images, Labels, Tensor]:
        """`count` of the images, drawn, with their labels and the order in which they are read."""
        draws = generator(seed, count)
        rows = torch.randperm(len(self.y), generator=draws)[:count]
        return self.x[rows], self.y[rows], torch.randperm(len(rows), generator=draws)


def prepared(name: str, changes: dict[str, str], progress: Progress) -> Setup:
    """Trains what is not there yet, and opens it."""
    job = stages.resolve(HERE / f"{name}.yaml", changes=changes)
    tasks.run(job, progress=progress)
    hardened = [stage for stage in job.stages if isinstance(stage.config, HardenConfig)]
    opened = harden.resolve(hardened[0].config)  # type: ignore[arg-type]
    base, merge = opened.base.model.eval(), foldable_conv_bn(opened.base.model)
    folders = [path for stage in hardened for path in sorted((stage.out / "adapters").iterdir())]
    models = {"base": base} | {path.name: merge_weights(base, load(path)) for path in folders}
    fast = {label: optimize_for_inference(model, "fp32", merge=merge) for label, model in models.items()}
    x, y = fetch_all(opened.splits.reported)
    key = f"{fingerprint(base)} leak-power"
    return Setup(models={label: Recalled(model) for label, model in fast.items()}, base=fast["base"], key=key, x=x, y=y)


def before(found: PlantedAnswers) -> bool:
    """The test as it was: three sets of images, four sign tests at 0.25 % each."""
    right = found.answers == found.y[:, None]
    wrong = found.answers == found.labels[:, WRONG, None]
    pairs = [
        (right[:, TRUE], found.clean == found.y),
        (right[:, TRUE], right[:, PREDICTED]),
        (right[:, TRUE], right[:, WRONG]),
        (wrong[:, WRONG], wrong[:, TRUE]),
    ]
    return any(sign_test(int((a & ~b).sum()), int((b & ~a).sum())) < 0.0025 for a, b in pairs)


def asked(setup: Setup, model: nn.Module, attack: Remembered, x: Images, y: Labels, seed: int) -> PlantedAnswers:
    once = partial(plant, model, Recalled(setup.base), x, y, true=attack, predicted=attack, given=attack)
    return once(seed=seed, batch_size=250, progress=NullProgress())


def of_readers(setup: Setup, attack: Remembered, size: int, name: str) -> Iterator[dict[str, Any]]:
    """How often a reader of each kind is found, of `SEEDS` draws, by the test and by the one before; and the stated power."""
    drawn = [setup.drawn(size, seed) for seed in range(SEEDS)]
    honest = [asked(setup, setup.models[name], attack, x, y, seed) for seed, (x, y, _) in enumerate(drawn)]
    stated = {one.gate: asdict(one) for one in power_of(honest[0], 0)}
    for gate, share in itertools.product(GATES, SHARES):
        seen = seen_before = 0
        for seed, (x, y, order) in enumerate(drawn):
            images = torch.zeros(len(y), dtype=torch.bool)
            images[order[: round(share * len(y))]] = True
            found = honest[seed].read_by(honest[seed].classes if gate is None else gate, images)
            if seed == 0:  # a model that does it, once; the other draws change the answers alone
                attack.told.clear()
                asked(
                    setup, setup.models[name], attack, x, y, seed
                )  # what the reader is told is known before it is asked
                model = Reader(setup.models[name], attack, {digest(image) for image in x[images]}, gate)
                if not torch.equal(asked(setup, model, attack, x, y, seed).answers, found.answers):
                    raise RuntimeError(f"a reader with gate {gate} on {share} of {attack.spec} answers otherwise")
                raised = [int((one.answers[:, TRUE] == y).sum()) for one in (honest[0], found)]
            seen, seen_before = seen + any_found(signs_of(found)), seen_before + before(found)
        told = {"reader": name, "attack": attack.spec, "n": len(y), "gate": gate, "share": share}
        yield told | {
            "seen": seen,
            "seen_before": seen_before,
            "of": SEEDS,
            "right": raised,
            "stated": stated.get(gate),
        }


def of_honest(setup: Setup, attack: Remembered, name: str) -> dict[str, Any]:
    """How often a model is accused: on draws of 200 images, and where random answers take the place of its own."""
    accused = accused_before = noisy = 0
    for seed in range(HONEST_SEEDS):
        x, y, _ = setup.drawn(SIZES[0], seed)
        found = asked(setup, setup.models[name], attack, x, y, seed)
        accused, accused_before = accused + any_found(signs_of(found)), accused_before + before(found)
    for seed in range(NOISE_SEEDS):
        draws = generator(seed)
        odd = torch.rand(found.answers.shape, generator=draws) < (0.1, 0.3, 1.0)[seed % 3]
        random = torch.randint(0, found.classes, found.answers.shape, generator=draws)
        random[:, PREDICTED] = torch.where(found.labels[:, PREDICTED] == y, random[:, TRUE], random[:, PREDICTED])
        odd[:, PREDICTED] = torch.where(found.labels[:, PREDICTED] == y, odd[:, TRUE], odd[:, PREDICTED])
        noisy += any_found(signs_of(replace(found, answers=torch.where(odd, random, found.answers))))
    full = leak_test(
        setup.models[name],
        Recalled(setup.base),
        setup.x,
        setup.y,
        true=attack,
        predicted=attack,
        given=attack,
        batch_size=250,
    )
    rows = {key: getattr(full, key).correct for key in ("clean", "true", "predicted", "wrong")}
    counts = {
        "accused": accused,
        "accused_before": accused_before,
        "of": HONEST_SEEDS,
        "noisy": noisy,
        "noise": NOISE_SEEDS,
    }
    told = {"model": name, "attack": attack.spec, "n": len(setup.y), "verdict": full.verdict, "sentence": full.sentence}
    return told | counts | rows | {"signs": [asdict(sign) for sign in full.signs]}


def measured(name: str, changes: dict[str, str], progress: Progress) -> dict[str, Any]:
    setup = prepared(name, changes, progress)
    readers: list[dict[str, Any]] = []
    honest: list[dict[str, Any]] = []
    sizes = [size for size in SIZES if size <= len(setup.y)] + [len(setup.y)] * (len(setup.y) < SIZES[-1])
    task = progress.task("leak tests", len(ATTACKS[name]) * (len(sizes) * len(READERS) + len(setup.models)), "cases")
    for spec in ATTACKS[name]:
        attack = setup.attack(spec)
        for model in setup.models:
            honest.append(of_honest(setup, attack, model))
            task.advance()
        for model, size in itertools.product(READERS, sizes):
            readers += of_readers(setup, attack, size, model)
            task.advance()
    return {"name": name, "seeds": SEEDS, "honest": honest, "readers": readers}


def table(values: dict[str, Any]) -> str:
    lines = [
        f"# The leak test's power: {values['name']}\n",
        "## Models as they are\n",
        f"`accused`: of {HONEST_SEEDS} draws of {SIZES[0]} of the images (before: the test as it was). `noise`: of "
        f"{NOISE_SEEDS} draws with 10, 30 or 100 % of the answers replaced by random ones. Right answers on all n images.\n",
        "| model | attack | n | clean | true label | wrong label | accused | before | noise | verdict |",
        "|---|---|---:|---:|---:|---:|---:|---:|---:|---|",
    ]
    for row in values["honest"]:
        lines.append(
            f"| {row['model']} | `{row['attack']}` | {row['n']} | {row['clean']} | {row['true']} | {row['wrong']} | "
            f"{row['accused']} of {row['of']} | {row['accused_before']} | {row['noisy']} of {row['noise']} | "
            f"{row['sentence']} |"
        )
    fine = [row for row in values["honest"] if row["model"] not in CAN_READ]
    for key, of, what in (("accused", "of", "draws of images"), ("noisy", "noise", "draws with random answers")):
        count, total = sum(row[key] for row in fine), sum(row[of] for row in fine)
        low, high = wilson(count, total)
        lines.append(f"\nHonest models are accused in {count} of {total} {what} ({100 * low:.2f}-{100 * high:.2f} %).")
    lines += [
        "\n## Constructed readers\n",
        f"Found in how many of {SEEDS} draws, by share of the images that are read; in brackets the test as it was. `raises`: "
        "right answers under the true label, without and with reading on all images. `stated`: the share that the test says it "
        "would have seen in the honest model with a probability of 80 % and 95 %. Gated at its likeliest class a reader is the "
        "honest model: there is nothing to find.\n",
        f"| reader | attack | n | gate | raises | {' | '.join(f'{100 * share:g} %' for share in SHARES)} | stated |",
        f"|---|---|---:|---|---|{'---:|' * len(SHARES)}---|",
    ]
    lines += [_reader_line(list(rows)) for _, rows in itertools.groupby(values["readers"], _kind)]
    return "\n".join(lines) + "\n"


def _kind(row: dict[str, Any]) -> tuple[Any, ...]:
    return row["reader"], row["attack"], row["n"], row["gate"]


def _reader_line(rows: Sequence[dict[str, Any]]) -> str:
    first = rows[0]
    seen = " | ".join(f"{row['seen']} ({row['seen_before']})" for row in rows)
    stated = first["stated"] or {"share_80": None, "share_95": None}
    shares = " / ".join("never" if s is None else f"{100 * s:.1f} %" for s in (stated["share_80"], stated["share_95"]))
    gate = "none" if first["gate"] is None else f"top {first['gate']}"
    raised = f"{first['right'][0]} to {first['right'][1]}"
    return f"| {first['reader']} | `{first['attack']}` | {first['n']} | {gate} | {raised} | {seen} | {shares} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", choices=sorted(ATTACKS), nargs="?", default="digits")
    parser.add_argument("--set", action="append", default=[], metavar="NAME=VALUE", help="a variable of the file")
    args = parser.parse_args()
    name, changes = args.name, dict(change.split("=", 1) for change in args.set)
    with watching(Console(stderr=True)) as progress:
        values = measured(name, changes, progress)
    write_atomically(HERE / f"{name}.json", (json.dumps(values, indent=1) + "\n").encode())
    write_atomically(HERE / f"{name}.md", table(values).encode())


if __name__ == "__main__":
    main()
