"""CPU seconds from a trained base to a robust accuracy, ours beside the libraries people would take instead.

    python -m benchmarks.time_to_robustness --base FOLDER --data SOURCE [--images 200] [--threads 1] [--resume]

Everyone starts from the same weights and trains against L-inf 8/255 in batches of 128. A budget is a number of training
images; budgets grow until the last target is reached, and every budget is a training of its own with its own schedule. Time
is the process's CPU time from the base to the trained model: crafting, training, and for ours also validation, checkpoints
and saving. Peers train on one batch beforehand, so that they do not pay for warming up. A peer that has not reached the
last target in LIMIT times our seconds is left there. Robust accuracy is AutoAttack's (standard) on the first test images,
fp32 for all; where its two APGDs alone push it below the first target, it is left at that.

As they come: the libraries' own defaults at this radius, Adam at 1e-3. Tuned: the loss on attacked images alone, one-step
attacks, a one-cycle schedule, bf16 where the library lets one choose, and the best of five rates by PGD-10 on 500 images
left out of training; choosing it is not counted.
"""

import argparse
import copy
import json
import math
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.timing import RESULTS, machine
from loradar.adapters import load, merge_weights
from loradar.attacks import PGD, AutoAttack
from loradar.core.config import validate
from loradar.core.randomness import mix
from loradar.data import augment, fetch_all, load_source, split
from loradar.evaluation import run_attack
from loradar.evaluation.measure import correct
from loradar.evaluation.workbench import open_bench
from loradar.jobs import harden
from loradar.jobs.config import HardenConfig
from loradar.jobs.train_adapter import train_adapter
from loradar.models import open_base, optimize_for_inference, resolve_precision

RADIUS, BATCH, TARGETS = 8 / 255, 128, (20.0, 25.0)
LIMIT = 8
RATES = (3e-4, 1e-3, 3e-3, 1e-2, 3e-2)
TUNING_IMAGES, VALIDATION_IMAGES = 11_520, 500
Craft = Callable[[Tensor, Tensor], Tensor]
Step = Callable[[Tensor, Tensor, float], None]


@dataclass(frozen=True, kw_only=True)
class Images:
    """Training images with validation ones apart, and the test images that are reported."""

    x: Tensor
    y: Tensor
    x_val: Tensor
    y_val: Tensor
    x_test: Tensor
    y_test: Tensor


@dataclass(frozen=True, kw_only=True)
class Row:
    """One training: what it cost and what it holds. `bound`: AutoAttack was left after its APGDs, it would be lower."""

    name: str
    images: int
    seconds: float
    clean: float
    robust: float
    bound: bool = False
    rate: float | None = None


@dataclass(frozen=True, kw_only=True)
class Contender:
    """`start(base)` gives a model to train and what does one step of it at a rate; `budgets` are in training images."""

    name: str
    start: Callable[[nn.Module], tuple[nn.Module, Step]]
    budgets: Sequence[int]
    tuned: bool


def stepping(model: nn.Module, parameters: Sequence[Tensor], craft: Craft, *, bf16: bool) -> Step:
    optimizer = torch.optim.Adam(parameters, lr=1e-3)

    def step(x: Tensor, y: Tensor, rate: float) -> None:
        optimizer.param_groups[0]["lr"] = rate
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            model.eval()
            x_adv = craft(x, y).detach()
            model.train()
            loss = F.cross_entropy(model(x_adv), y)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()

    return step


def by_torchattacks(model: nn.Module, *, tuned: bool) -> Craft:
    import torchattacks

    attack = (
        torchattacks.FFGSM(model, eps=RADIUS, alpha=1.25 * RADIUS) if tuned else torchattacks.PGD(model, eps=RADIUS)
    )
    return lambda x, y: attack(x, y)


def full(base: nn.Module, *, tuned: bool) -> tuple[nn.Module, Step]:
    model = copy.deepcopy(base).requires_grad_(True)
    craft = by_torchattacks(model, tuned=tuned)
    return model, stepping(model, list(model.parameters()), craft, bf16=tuned and has_bf16())


def lora(base: nn.Module, *, tuned: bool) -> tuple[nn.Module, Step]:
    """Tuned: all convolutions at rank 16, with the normalisation and the head; as it comes: rank 8, with the head."""
    import peft

    model = copy.deepcopy(base)
    inner: nn.Module = model.wrapped  # type: ignore[assignment]
    convolutions = [name for name, each in inner.named_modules() if isinstance(each, nn.Conv2d)]
    norms = [name for name, each in inner.named_modules() if isinstance(each, nn.BatchNorm2d)]
    config = peft.LoraConfig(
        target_modules=convolutions,
        modules_to_save=["fc", *(norms if tuned else ())],
        **({"r": 16, "lora_alpha": 16} if tuned else {}),
    )
    model.wrapped = peft.get_peft_model(inner, config)
    craft = by_torchattacks(model, tuned=tuned)
    parameters = [p for p in model.parameters() if p.requires_grad]
    return model, stepping(model, parameters, craft, bf16=tuned and has_bf16())


def art(base: nn.Module, *, tuned: bool) -> tuple[nn.Module, Step]:
    """ART's trainer, one batch at a call. Tuned: no clean half, FGSM with a random start, as its class for that does it."""
    from art.attacks.evasion import FastGradientMethod, ProjectedGradientDescent
    from art.defences.trainer import AdversarialTrainer
    from art.estimators.classification import PyTorchClassifier

    model = copy.deepcopy(base).requires_grad_(True)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    classifier = PyTorchClassifier(
        model=model,
        loss=nn.CrossEntropyLoss(),
        optimizer=optimizer,
        input_shape=(3, 32, 32),
        nb_classes=10,
        clip_values=(0.0, 1.0),
        device_type="cpu",
    )
    if tuned:
        # eps is the step as well, and the start is drawn in the same ball
        attack = FastGradientMethod(classifier, eps=RADIUS, num_random_init=1, batch_size=BATCH)
    else:
        attack = ProjectedGradientDescent(
            classifier, eps=RADIUS, eps_step=2 / 255, max_iter=10, batch_size=BATCH, verbose=False
        )
    trainer = AdversarialTrainer(classifier, attack, ratio=1.0 if tuned else 0.5)

    def step(x: Tensor, y: Tensor, rate: float) -> None:
        optimizer.param_groups[0]["lr"] = rate
        trainer.fit(x.numpy(), y.numpy(), batch_size=BATCH, nb_epochs=1)

    return model, step


def has_bf16() -> bool:
    return resolve_precision("auto", torch.device("cpu")) == torch.bfloat16


def peer(contender: Contender, base: nn.Module, images: Images, count: int, rate: float) -> tuple[nn.Module, float]:
    """The trained model, and CPU seconds."""
    start_warm, step_warm = contender.start(base)
    step_warm(images.x[:BATCH], images.y[:BATCH], 0.0)
    del start_warm, step_warm
    began = time.process_time()
    model, step = contender.start(base)
    total = max(1, count // BATCH)
    per_epoch = len(images.x) // BATCH
    for index in range(total):
        epoch, batch = divmod(index, per_epoch)
        if not batch:
            order = torch.randperm(len(images.x), generator=torch.Generator().manual_seed(epoch))
        rows = order[batch * BATCH : (batch + 1) * BATCH]
        (x,) = augment((images.x[rows],), crop=4, flip=True, seed=mix(0, epoch, batch))
        # one cycle: up for three tenths, then down along a cosine
        rise, done = 0.3, (index + 1) / total
        shape = done / rise if done < rise else 0.5 * (1 + math.cos(math.pi * (done - rise) / (1 - rise)))
        step(x, images.y[rows], rate * shape if contender.tuned else rate)
    return model.eval(), time.process_time() - began


def ours(base_spec: str, data: str, count: int, folder: Path) -> tuple[nn.Module, float]:
    """The recipe `fast` on as many images, as `loradar harden` trains it, with everything that it does beside."""
    per_epoch = min(count, 44_800)
    epochs = max(1, round(count / per_epoch))
    settings = {
        "base": base_spec,
        "data": data,
        "attacks": ["pgd:eps=8/255"],
        "recipe": "fast",
        "epochs": epochs,
        "train": count // epochs,
        "validation": VALIDATION_IMAGES,
        "max_test_images": 10,
        "out": folder,
    }
    job = harden.resolve(validate(HardenConfig, settings))
    began = time.process_time()
    bench = open_bench(job.base, job.config, None)
    trained = train_adapter(job.members[0], bench, job.splits, job.config, folder / "work")
    model = merge_weights(job.base.model, load(trained.selected.folder))
    return model, time.process_time() - began


def robust(model: nn.Module, images: Images) -> tuple[float, float, bool]:
    """Clean and robust accuracy in %, and whether AutoAttack was left after its APGDs."""
    fast, x, y = optimize_for_inference(model, "fp32"), images.x_test, images.y_test
    right = correct(fast, x, y, batch_size=BATCH)
    clean = 100 * float(right.float().mean())
    halves = AutoAttack(eps=RADIUS, attacks=("apgd-ce", "apgd-t")), AutoAttack(eps=RADIUS, attacks=("fab-t", "square"))
    for attack in halves:
        rows = torch.nonzero(right).squeeze(1)
        if not len(rows):
            break
        x_adv = run_attack(attack, fast, x[rows], y[rows], batch_size=BATCH)
        right[rows] = correct(fast, x_adv, y[rows], batch_size=BATCH)
        share = 100 * float(right.float().mean())
        if share < TARGETS[0]:
            return clean, share, attack is halves[0]
    return clean, 100 * float(right.float().mean()), False


def best_rate(contender: Contender, base: nn.Module, images: Images) -> float:
    """Of `RATES`, by PGD-10 on the validation images after a short training."""
    found = {}
    for rate in RATES:
        model, _ = peer(contender, base, images, TUNING_IMAGES, rate)
        fast = optimize_for_inference(model, "fp32")
        x_adv = run_attack(PGD(eps=RADIUS, steps=10), fast, images.x_val, images.y_val, batch_size=BATCH)
        found[rate] = float(correct(fast, x_adv, images.y_val, batch_size=BATCH).float().mean())
    shares = ", ".join(f"{rate:g}: {100 * value:.1f}" for rate, value in found.items())
    print(f"{contender.name}: PGD-10 on validation by rate {shares}", flush=True)
    return max(found, key=lambda rate: found[rate])


def seconds_to(rows: Sequence[Row], target: float) -> float | None:
    """CPU seconds at which the accuracy of a growing budget reaches `target`, linear in their logarithm between budgets."""
    before: Row | None = None
    for row in sorted(rows, key=lambda row: row.seconds):
        if row.robust >= target:
            if before is None or before.robust >= row.robust:
                return row.seconds
            share = (target - before.robust) / (row.robust - before.robust)
            return float(before.seconds * (row.seconds / before.seconds) ** share)
        before = row
    return None


class Results:
    """The rows so far, kept in a file after each."""

    def __init__(self, images: int, *, resume: bool) -> None:
        self._path = RESULTS / "time-to-robustness.json"
        self._images = images
        old = json.loads(self._path.read_text())["rows"] if resume and self._path.exists() else []
        self.rows = [Row(**each) for each in old]

    def of(self, name: str) -> list[Row]:
        return [row for row in self.rows if row.name == name]

    def keep(self, row: Row) -> None:
        self.rows.append(row)
        rate = f", rate {row.rate:g}" if row.rate else ""
        print(f"{row.name}: {row.images} images, {row.seconds:.0f} s: clean {row.clean:.1f}, "
              f"AutoAttack {'at most ' if row.bound else ''}{row.robust:.1f}{rate}", flush=True)  # fmt: skip
        settings = {"radius": "8/255", "test images": self._images, "batch": BATCH, "targets": TARGETS, "limit": LIMIT}
        content = {"settings": settings, "machine": machine(), "rows": [asdict(each) for each in self.rows]}
        self._path.write_text(json.dumps(content, indent=1) + "\n")


def run(args: argparse.Namespace) -> None:
    base = open_base(args.base, "cpu").model
    splits = split(load_source(args.data), validation=VALIDATION_IMAGES, reported=args.images, seed=0)
    (x, y), (x_val, y_val), (x_test, y_test) = map(fetch_all, (splits.train, splits.validation, splits.reported))
    images = Images(x=x, y=y, x_val=x_val, y_val=y_val, x_test=x_test, y_test=y_test)
    results = Results(args.images, resume=args.resume)
    for count in OUR_BUDGETS:
        if any(row.images == count or row.robust >= TARGETS[-1] for row in results.of(OURS)):
            continue
        with tempfile.TemporaryDirectory() as folder:
            model, seconds = ours(args.base, args.data, count, Path(folder))
        clean, held, bound = robust(model, images)
        results.keep(Row(name=OURS, images=count, seconds=seconds, clean=clean, robust=held, bound=bound))
    goal = seconds_to(results.of(OURS), TARGETS[-1]) or max(row.seconds for row in results.of(OURS))
    for contender in CONTENDERS:
        rate: float | None = None
        for count in contender.budgets:
            before = results.of(contender.name)
            if any(row.images == count or row.robust >= TARGETS[-1] for row in before):
                continue
            if before and before[-1].seconds * count / before[-1].images > LIMIT * goal:
                break
            if rate is None:
                rate = before[-1].rate if before else best_rate(contender, base, images) if contender.tuned else 1e-3
            assert rate is not None
            model, seconds = peer(contender, base, images, count, rate)
            clean, held, bound = robust(model, images)
            results.keep(
                Row(
                    name=contender.name, images=count, seconds=seconds, clean=clean, robust=held, bound=bound, rate=rate
                )
            )
    summary(results)


def summary(results: Results) -> None:
    print(f"\n{'CPU seconds to':<44}" + "".join(f"{f'AutoAttack {target:g} %':>28}" for target in TARGETS))
    for name in dict.fromkeys(row.name for row in results.rows):
        longest = max(row.seconds for row in results.of(name))
        cells = []
        for target in TARGETS:
            mine, found = seconds_to(results.of(OURS), target), seconds_to(results.of(name), target)
            text = f"{found:.0f}" if found else f"more than {longest:.0f}"
            if mine and name != OURS:
                text += f" ({(found or longest) / mine:.1f} times)"
            cells.append(text)
        print(f"{name:<44}" + "".join(f"{cell:>28}" for cell in cells))


OURS, OUR_BUDGETS = "loradar harden --recipe fast", (5_760, 11_520, 22_528, 44_800, 89_600, 179_200)
TUNED, AS_IT_COMES = (11_520, 22_528, 44_800, 89_600, 179_200), (5_760, 11_520, 22_528, 44_800)
CONTENDERS = (
    Contender(name="full fine-tuning, torchattacks, tuned", start=partial(full, tuned=True), budgets=TUNED, tuned=True),
    Contender(name="peft LoRA, torchattacks, tuned", start=partial(lora, tuned=True), budgets=TUNED, tuned=True),
    Contender(name="ART AdversarialTrainer, tuned", start=partial(art, tuned=True), budgets=TUNED, tuned=True),
    Contender(
        name="full fine-tuning, torchattacks", start=partial(full, tuned=False), budgets=AS_IT_COMES, tuned=False
    ),
    Contender(name="peft LoRA, torchattacks", start=partial(lora, tuned=False), budgets=AS_IT_COMES, tuned=False),
    Contender(name="ART AdversarialTrainer", start=partial(art, tuned=False), budgets=AS_IT_COMES, tuned=False),
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--base", required=True)
    parser.add_argument("--data", required=True)
    parser.add_argument("--images", type=int, default=200)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--resume", action="store_true", help="keep the rows that the file has, and go on")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    run(args)


if __name__ == "__main__":
    main()
