"""PGD beside torchattacks, foolbox and ART, ROA and FIA beside plain references: times faster at the same strength.

    python -m benchmarks.crafting pgd --base FOLDER --data SOURCE

One process, in turns: same weights, batch and threads. The peers run as they do by default (fp32), the references in fp32
and under bf16 autocast with channels-last. Strength is judged on the first --strength test images by the base in fp32; without
a trained base (--base) the weights are fresh and no ratio counts.
"""

import argparse
from collections.abc import Callable, Mapping
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks import references
from benchmarks.beside import Candidate, Strength, in_turns, operations, peak, ratio, show
from loradar.attacks import parse_attack
from loradar.core.modules import find_layer
from loradar.data import fetch_all, load_source
from loradar.models import Autocast, Precision, foldable_conv_bn, load_base, new_base, optimize_for_inference

Craft = Callable[[Tensor, Tensor], Tensor]
RADIUS, STEP, STEPS = 8 / 255, 2 / 255, 10
OURS = "loradar"


def ours(base: nn.Module, *attacks: str, precisions: tuple[Precision, ...] = ("bf16",)) -> dict[str, Craft]:
    """Each attack by its specification, in each precision."""
    merge = foldable_conv_bn(base)
    models = {precision: optimize_for_inference(base, precision, merge=merge) for precision in precisions}
    return {
        f"{OURS} {text.partition(':')[0]} {precision}": partial(parse_attack(text), model)
        for text in attacks
        for precision, model in models.items()
    }


def peers_of_pgd(base: nn.Module) -> dict[str, Craft]:
    """Each in its own way, in the same ball with the same steps from a random start."""
    import art.attacks.evasion
    import art.estimators.classification
    import foolbox
    import torchattacks

    pgd = torchattacks.PGD(base, eps=RADIUS, alpha=STEP, steps=STEPS, random_start=True)
    attack = foolbox.attacks.LinfPGD(abs_stepsize=STEP, steps=STEPS, random_start=True)
    wrapped = foolbox.PyTorchModel(base, bounds=(0, 1), device="cpu")

    def by_art(x: Tensor, y: Tensor) -> Tensor:
        classifier = art.estimators.classification.PyTorchClassifier(
            base, nn.CrossEntropyLoss(), x.shape[1:], 10, clip_values=(0, 1), device_type="cpu"
        )
        made = art.attacks.evasion.ProjectedGradientDescentPyTorch(
            classifier, eps=RADIUS, eps_step=STEP, max_iter=STEPS, num_random_init=1, batch_size=len(x), verbose=False
        )
        return torch.from_numpy(made.generate(x.numpy(), y.numpy()))

    return {
        "torchattacks": lambda x, y: pgd(x, y),
        "foolbox": lambda x, y: attack(wrapped, x, y, epsilons=RADIUS)[1],
        "ART": by_art,
    }


def plain(craft: Callable[[nn.Module, Tensor, Tensor], Tensor], base: nn.Module) -> dict[str, Craft]:
    quick = Autocast(base, torch.bfloat16)
    return {
        "reference fp32": lambda x, y: craft(base, x, y),
        "reference bf16, channels-last": lambda x, y: craft(quick, x, y),
    }


def contest(claim: str, base: nn.Module) -> dict[str, Craft]:
    """Ours first, then those beside us."""
    match claim:
        case "pgd":
            attack = f"pgd:eps={RADIUS},step_size={STEP},steps={STEPS}"
            return ours(base, attack, precisions=("fp32", "bf16")) | peers_of_pgd(base)
        case "roa":
            return ours(base, "roa", "roa-quick") | plain(references.roa, base)
        case "roa-exhaustive":
            exhaustive = partial(references.roa, candidates=None)
            return ours(base, "roa-quick-exhaustive") | plain(exhaustive, base)
        case _:
            layer = find_layer(base, "layer2")
            return ours(base, "fia", "fia-quick") | plain(lambda m, x, y: references.fia(m, layer, x, y), base)


def strengths(crafts: Mapping[str, Craft], base: nn.Module, x: Tensor, y: Tensor, batch: int) -> dict[str, Strength]:
    found = {}
    for name, craft in crafts.items():
        fooled, loss = 0, 0.0
        for images, labels in zip(torch.split(x, batch), torch.split(y, batch), strict=True):
            x_adv = craft(images, labels).detach()
            with torch.no_grad():
                logits = base(x_adv)
            fooled += int((logits.argmax(1) != labels).sum())
            loss += float(F.cross_entropy(logits, labels, reduction="sum"))
        found[name] = Strength(fooled=fooled, total=len(y), loss=loss / len(y))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("claim", choices=["pgd", "roa", "roa-exhaustive", "fia"])
    parser.add_argument("--base", help="a trained base; default: resnet18-cifar with fresh weights")
    parser.add_argument("--data", default="digits", help="whose test images are attacked")
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--strength", type=int, default=512, help="test images to compare strength on")
    args = parser.parse_args()
    found = load_base(args.base) if args.base else new_base("resnet18-cifar", num_classes=10, input_size=(3, 32, 32))
    base = found.model.eval()  # its parameters as they come: this is how users give a model to the peers
    x, y = fetch_all(load_source(args.data, size=(32, 32)).test or load_source(args.data, size=(32, 32)).train)
    crafts = contest(args.claim, base)
    seconds = in_turns(
        {name: partial(craft, x[: args.batch], y[: args.batch]) for name, craft in crafts.items()}, args.repeats
    )
    strong = strengths(crafts, base, x[: args.strength], y[: args.strength], args.batch) if args.base else {}
    candidates = [
        Candidate(name=name, images=args.batch, seconds=seconds[name], strength=strong.get(name)) for name in crafts
    ]
    own = [one for one in candidates if one.name.startswith(OURS)]
    others = [one for one in candidates if one not in own]
    forward = operations(base, x[:1])
    settings = {
        "batch": args.batch,
        "repeats": args.repeats,
        "GFLOP an image, forward": round(forward / 1e9, 3),
        # behind the first layer the gradient with respect to images is as much again
        "GFLOP an image, with gradient": round(2 * forward / 1e9, 3),
        "GFLOP/s, fp32 product": round(peak(torch.float32) / 1e9),
        "GFLOP/s, bf16 product": round(peak(torch.bfloat16) / 1e9),
    }
    show(
        f"crafting-{args.claim}",
        settings,
        candidates,
        [ratio(one, other, by_loss="quick" in one.name) for one in own for other in others],
    )


if __name__ == "__main__":
    main()
