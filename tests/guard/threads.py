"""Opens and asks guards from many threads while others compute, and counts errors and answers with other bits.

`python -m tests.guard.threads --answers 10000` prints the counts; it ends with 1 where one of the last two is not 0.
"""

import argparse
import tempfile
import threading
from dataclasses import dataclass
from pathlib import Path

import torch

from loradar.guard.guard import Guard
from tests.guard import toys


@dataclass
class Count:
    """Images answered, guards opened, what was raised, and how many answers had other bits than in one thread alone."""

    answers: int = 0
    opened: int = 0
    errors: int = 0
    different: int = 0


def ask(folder: Path, answers: int, threads: int = 16) -> Count:
    """Every fourth thread opens a guard of its own for each batch; the others share one guard, and train beside it."""
    place, base = toys.saved(folder)
    shared = Guard.open(place, base=base, precision="fp32")
    batches = [toys.traffic(2, seed=seed) for seed in range(4)]
    expected = [shared.predict_proba(batch) for batch in batches]
    count, lock = Count(), threading.Lock()

    def serve(number: int) -> None:
        turn = number
        while True:
            with lock:
                if count.answers >= answers or count.errors:
                    return
            index = turn % len(batches)
            opens, turn = number % 4 == 0, turn + 1
            try:
                one = Guard.open(place, base=base, precision="fp32") if opens else shared
                found = one.predict_proba(batches[index])
                x = batches[index].clone().requires_grad_()
                base.model(x).sum().backward()
                wrong = not torch.equal(found, expected[index]) or x.grad is None
            except Exception:
                with lock:
                    count.errors += 1
                raise
            with lock:
                count.answers += len(found)
                count.opened += opens
                count.different += wrong * len(found)

    workers = [threading.Thread(target=serve, args=(number,)) for number in range(threads)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    return count


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--answers", type=int, default=10_000)
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        count = ask(Path(folder) / "guard", parser.parse_args().answers)
    print(count)  # noqa: T201
    raise SystemExit(bool(count.errors or count.different))


if __name__ == "__main__":
    main()
