"""A robust training step, PGD-10 against the model as it is and a 1:1 update: ours beside peft with torchattacks.

    python -m benchmarks.robust_step [--base FOLDER] [--batch 64] [--repeats 7] [--device cuda]

One process, in turns: same weights, batch, threads, optimiser, ball and steps. Peers and full fine-tuning run in fp32, as they
do by default; full fine-tuning also with all that makes ours fast, so that what the adapter itself saves can be told apart.
"""

import argparse
import copy
from collections.abc import Callable, Iterable

import torch
from torch import Tensor, nn

from benchmarks.beside import Candidate, in_turns, operations, peak, ratio, show
from benchmarks.crafting import OURS, RADIUS, STEP, STEPS
from loradar.adapters import find_targets, init_adapter, merge_weights, plug
from loradar.attacks import PGD
from loradar.models import (
    Precision,
    foldable_conv_bn,
    load_base,
    new_base,
    optimize_for_inference,
    pick_device,
    skip_padding,
    with_autocast,
)
from loradar.training import adversarial_loss

TARGETS = "block-conv1+stem"
ATTACK = PGD(eps=RADIUS, step_size=STEP, steps=STEPS)
Craft = Callable[[Tensor, Tensor], Tensor]


def stepping(model: nn.Module, parameters: Iterable[Tensor], craft: Craft, x: Tensor, y: Tensor) -> Callable[[], None]:
    optimizer = torch.optim.Adam(parameters, lr=1e-3)

    def step() -> None:
        loss = adversarial_loss(model, x, craft(x, y), y)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()

    return step


def by_torchattacks(model: nn.Module) -> Craft:
    import torchattacks

    pgd = torchattacks.PGD(model, eps=RADIUS, alpha=STEP, steps=STEPS, random_start=True)
    return lambda x, y: pgd(x, y)


def adapter_step(base: nn.Module, precision: Precision, x: Tensor, y: Tensor) -> Callable[[], None]:
    adapter, merge = init_adapter(base, target_modules=[TARGETS]), foldable_conv_bn(base)
    model = with_autocast(skip_padding(plug(base, adapter, merge=merge)), precision)

    def craft(x: Tensor, y: Tensor) -> Tensor:
        return ATTACK(optimize_for_inference(merge_weights(base, adapter, check=False), precision, merge=merge), x, y)

    return stepping(model, adapter.parameters(), craft, x, y)


def peft_step(base: nn.Module, x: Tensor, y: Tensor) -> Callable[[], None]:
    import peft

    names = list(find_targets(base, [TARGETS]))
    config = peft.LoraConfig(r=4, lora_alpha=4, target_modules=names, modules_to_save=["fc"])
    model = copy.deepcopy(base).eval()
    model.wrapped = peft.get_peft_model(model.wrapped, config)
    return stepping(model, [p for p in model.parameters() if p.requires_grad], by_torchattacks(model), x, y)


def full_step(base: nn.Module, precision: Precision | None, x: Tensor, y: Tensor) -> Callable[[], None]:
    """With a precision, by our copies and attack; without, as it is usually written."""
    model = copy.deepcopy(base).eval().requires_grad_(True)
    if precision is None:
        return stepping(model, model.parameters(), by_torchattacks(model), x, y)
    merge, fast = (
        foldable_conv_bn(base),
        with_autocast(skip_padding(model.to(memory_format=torch.channels_last)), precision),
    )
    return stepping(
        fast, model.parameters(), lambda x, y: ATTACK(optimize_for_inference(model, precision, merge=merge), x, y), x, y
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--base", help="a trained base; default: resnet18-cifar with fresh weights, as fast as any")
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--device", default="cpu")
    args = parser.parse_args()
    found = load_base(args.base) if args.base else new_base("resnet18-cifar", num_classes=10, input_size=(3, 32, 32))
    device = pick_device(args.device)
    plain = found.model.to(device).eval().requires_grad_(False)
    base = copy.deepcopy(plain).to(memory_format=torch.channels_last)  # as our recipes hold it
    x = torch.rand(args.batch, *found.input_size, generator=torch.Generator().manual_seed(0)).to(device)
    y = (torch.arange(args.batch) % found.num_classes).to(device)
    steps = {
        f"{OURS} rank 4 fp32": adapter_step(base, "fp32", x, y),
        f"{OURS} rank 4 bf16": adapter_step(base, "bf16", x, y),
        "peft LoRA rank 4, torchattacks": peft_step(plain, x, y),
        "full fine-tuning, torchattacks": full_step(plain, None, x, y),
        "full fine-tuning, our copies, bf16": full_step(base, "bf16", x, y),
    }
    seconds = in_turns(steps, args.repeats)
    candidates = [Candidate(name=name, images=args.batch, seconds=seconds[name]) for name in steps]
    own, others = candidates[:2], candidates[2:]
    settings = {
        "batch": args.batch,
        "repeats": args.repeats,
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
        "attack": repr(ATTACK),
        "GFLOP an image, forward": round(operations(base, x[:1]) / 1e9, 3),
        "GFLOP/s, fp32 product": round(peak(torch.float32, device=device) / 1e9),
        "GFLOP/s, bf16 product": round(peak(torch.bfloat16, device=device) / 1e9),
    }
    show(
        "robust-step" if device.type == "cpu" else f"robust-step-{device.type}",
        settings,
        candidates,
        [ratio(one, other) for one in own for other in others],
    )


if __name__ == "__main__":
    main()
