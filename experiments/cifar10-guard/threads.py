"""Two threads serve two guards on one base at once: are their answers those of one thread?

    python experiments/cifar10-guard/threads.py          # after `loradar run guard.yaml`, which builds the guard

asks a guard of votes with its cascade, and one that routes every image, for the first 10,000 test images, each alone and
then both at the same time, and writes `threads.json` beside this file.
"""

import argparse
import threading
from pathlib import Path

import torch
from torch import Tensor

from loradar.core.files import write_atomically
from loradar.data import load_source
from loradar.guard.guard import Guard

HERE = Path(__file__).parent


def answers(guard: Guard, batches: list[Tensor]) -> Tensor:
    with torch.no_grad():
        return torch.cat([guard(batch) for batch in batches])


def together(guards: list[Guard], batches: list[Tensor]) -> list[Tensor]:
    logits: dict[int, Tensor] = {}

    def serve(index: int) -> None:
        logits[index] = answers(guards[index], batches)

    threads = [threading.Thread(target=serve, args=(index,)) for index in range(len(guards))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return [logits[index] for index in range(len(guards))]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=10_000)
    parser.add_argument("--data", default="../shared/data/cifar10")
    args = parser.parse_args()
    count = args.images
    guard = Guard.open("runs/cifar10-guard/guard")
    test = load_source(args.data, size=guard.input_size[1:]).test
    assert test is not None
    x, _ = test.fetch(torch.arange(count))
    batches = list(torch.split(x, 128))
    guards = [guard.replace(fusion="majority"), guard.replace(fusion="routed", cascade=False)]
    alone = [answers(guard, batches) for guard in guards]
    both = together(guards, batches)
    differing = [int((a.argmax(1) != b.argmax(1)).sum()) for a, b in zip(alone, both, strict=True)]
    logits = [int((a != b).sum()) for a, b in zip(alone, both, strict=True)]
    line = f'{{"images": {count}, "threads": 2, "differing_answers": {differing}, "differing_logits": {logits}}}\n'
    write_atomically(HERE / "threads.json", line.encode())
    print(line, end="")


if __name__ == "__main__":
    main()
