"""`loradar serve` under load: images a second beside in-process batches and other servers; and swaps while clients ask.

    python -m benchmarks.serving throughput PLACE [--base B] [--clients 1 8 64] [--seconds 20] [--repeats 3]
    python -m benchmarks.serving swaps PLACE PLACE PLACE PLACE [--base B] [--clients 64] [--minutes 10] [--swaps 1000]
    python -m benchmarks.serving rolling PLACE PLACE [--base B] [--clients 8] [--minutes 5] [--replicas 2]

The server is a process and so are the clients, over loopback with connections that stay; all have the same cores. Every
answer is checked against what the version that it names answers in process to that picture alone: within 1e-5, or with
`--batch-size 1` to the bit. The pictures are 64 PNG files of digits in
noise, those that the places answer most differently. Each process computes in as many threads as OMP_NUM_THREADS says.

`throughput` takes turns between the server; the same pictures in process, in batches of as many as there are clients (the
server's batch size at most), once decoded before and once decoded too; and LitServe and Ray Serve at their defaults, where they
can be imported, around the very functions that decode and answer here. LitServe takes forms, so it is beside ours with forms.

`swaps` loads a place anew as a version, activates it, splits the traffic, rolls back, activates it again and forgets the one
before, in turns of the places, by the routes that admins have: four swaps for one that is loaded. Before it the same clients
ask without swaps, for a fifth of the time.

`rolling` serves the first place in several processes on Ray, and runs the command again with each of the others, as the next
version, while clients ask. Before it the same clients ask without updates, for a fifth of the time.

Each ends with 1 where a request failed or an answer differs.

JSON under `results/`.
"""

import argparse
import contextlib
import io
import itertools
import json
import shutil
import signal
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from rich.console import Console
from rich.table import Table
from torch import Tensor

from benchmarks.load import Load, Outcome, finish, start
from benchmarks.peers import PEERS, is_installed, opened
from benchmarks.servers import FORM, Server, form, loradar, peer, update
from benchmarks.timing import RESULTS, machine
from loradar.data import fetch_all, load_source
from loradar.serve import Client
from loradar.serve.models import Served
from loradar.serve.pictures import read_picture

PICTURES, TOLERANCE = 64, 1e-5


@dataclass(frozen=True, kw_only=True, eq=False)
class Known:
    """A version in process, with the pictures that it is asked, and its answers to each of them alone."""

    served: Served
    files: Sequence[bytes]

    @cached_property
    def answers(self) -> list[tuple[int, list[float]]]:
        """Label and probabilities."""
        alone = [self.served.answer(image[None])[0] for image in self.decoded(range(PICTURES))]
        return [(answer.label, answer.probabilities.tolist()) for answer in alone]

    def decoded(self, picks: Sequence[int]) -> Tensor:
        size = self.served.input_size[1], self.served.input_size[2]
        return torch.stack([read_picture(self.files[i], "image", size=size, max_pixels=10**7) for i in picks])


@dataclass(kw_only=True)
class Case:
    """Images a second in each turn, and what the clients got where there were clients."""

    name: str
    clients: int
    rates: list[float] = field(default_factory=list)
    outcomes: list[Outcome] = field(default_factory=list)


def known_versions(places: Sequence[str], base: str | None) -> tuple[list[Known], float]:
    """Every place, with pictures that are the same for all; and the least that two places differ by on one of these."""
    served = [opened(place, base, "auto") for place in places]
    size = served[0].input_size[1], served[0].input_size[2]
    x, _ = fetch_all(load_source("digits", size=size).train, 8 * PICTURES)
    x = (x + torch.rand(x.shape, generator=torch.Generator().manual_seed(0))) / 2  # clean ones are sure for all
    x = x.mul(255).round() / 255
    shares = [torch.stack([one.probabilities for one in version.answer(x)]) for version in served]
    pairs = [(one - other).abs().amax(1) for one, other in itertools.combinations(shares, 2)]
    apart = torch.stack(pairs).amin(0) if pairs else torch.ones(len(x))
    least, chosen = apart.topk(PICTURES)
    files = []
    for image in x[chosen]:
        file = io.BytesIO()
        Image.fromarray((image * 255).round().byte().permute(1, 2, 0).numpy()).save(file, "PNG")
        files.append(file.getvalue())
    return [Known(served=one, files=files) for one in served], float(least[-1])


def load_of(server: Server, known: Sequence[Known], args: argparse.Namespace, clients: int, seconds: float) -> Load:
    """The load on a server; versions are called by the letters of their places, and v1 is a."""
    fingerprints = [one.served.fingerprint for one in known]
    files = known[0].files
    return Load(
        port=server.port,
        path=server.path,
        content_type=server.content_type,
        bodies=[form(file) for file in files] if server.content_type == FORM else files,
        clients=clients,
        seconds=seconds,
        versions={"v1": fingerprints[0], **dict(zip("abcdefghij", fingerprints, strict=False))},
        expected={one.served.fingerprint: one.answers for one in known},
        tolerance=0.0 if args.batch_size == 1 else TOLERANCE,
    )


def in_process(known: Known, batch: int, seconds: float, *, decode: bool) -> float:
    """Images a second of batches that are answered one after the other."""
    x, done, began = known.decoded(range(PICTURES)), 0, time.perf_counter()
    while (taken := time.perf_counter() - began) < seconds:
        picks = [(done + step) % PICTURES for step in range(batch)]
        known.served.answer(known.decoded(picks) if decode else x[picks])
        done += batch
    return done / taken


@contextlib.contextmanager
def all_servers(known: Known, args: argparse.Namespace) -> Iterator[dict[str, Server]]:
    """Ours, taking pictures as bodies and as forms, and the others."""
    with contextlib.ExitStack() as stack:
        work = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        options = ("--batch-size", args.batch_size, "--max-connections", 2 * max(args.clients))
        ours = stack.enter_context(loradar(work, [f"m={args.places[0]}"], args.base, *options))
        servers = {"loradar": ours, "loradar, forms": Server(port=ours.port, pid=ours.pid, content_type=FORM)}
        for name in PEERS:
            if is_installed(name):
                servers[name] = stack.enter_context(peer(name, work, args.places[0], args.base, known.files[0]))
            else:
                print(f"{name} is not installed: left out")
        yield servers


def throughput(args: argparse.Namespace) -> int:
    (known,), _ = known_versions(args.places, args.base)
    cases: dict[tuple[str, int], Case] = {}
    with all_servers(known, args) as servers:
        for _, clients in itertools.product(range(args.repeats), args.clients):
            for name, server in servers.items():
                found = finish(start(load_of(server, [known], args, clients, args.seconds)))
                case = cases.setdefault((name, clients), Case(name=name, clients=clients))
                case.rates.append(found.rate)
                case.outcomes.append(found)
            for name, decode in (("in process", False), ("in process, decoding", True)):
                rate = in_process(known, min(clients, args.batch_size), args.seconds, decode=decode)
                cases.setdefault((name, clients), Case(name=name, clients=clients)).rates.append(rate)
    ratios = {
        f"{ours} / {other}": {n: _over(cases[ours, n], cases[other, n]) for n in args.clients}
        for other in dict.fromkeys(name for name, _ in cases)
        if not other.startswith("loradar")
        for ours in ["loradar, forms" if other in PEERS and PEERS[other].takes_forms else "loradar"]
    }
    columns = [f"{n} client{'s' * (n > 1)}" for n in args.clients]
    _table("images a second: median (least - most)", columns, cases, args.clients, lambda one: _said(one.rates, 0))
    asked = {key: case for key, case in cases.items() if case.outcomes}
    _table("p50, p99 in ms (medians)", columns, asked, args.clients, lambda one: f"{_ms(one, 0.5)}, {_ms(one, 0.99)}")
    table = Table("times as many images: median (least - most)", *columns)
    for name, by_clients in ratios.items():
        table.add_row(name, *(_said(by_clients[n], 2) for n in args.clients))
    Console().print(table)
    rows = [
        {"case": one.name, "clients": one.clients, "images_per_second": one.rates}
        | ({"outcomes": [_figures(found) for found in one.outcomes]} if one.outcomes else {})
        for one in cases.values()
    ]
    _write("serving-throughput", args, [known], {"cases": rows, "ratios": ratios})
    return _verdict([outcome for case in cases.values() for outcome in case.outcomes])


def known_apart(args: argparse.Namespace) -> tuple[list[Known], float]:
    """As `known_versions`, of places that a mistake would show between."""
    if not 2 <= len(args.places) <= 10 or not all(Path(place).is_dir() for place in args.places):
        raise SystemExit("expected between two and ten folders")
    known, apart = known_versions(args.places, args.base)
    if apart <= 2 * TOLERANCE:
        raise SystemExit(f"two of the places answer alike (within {apart:.1e}), so a mistake would not show")
    return known, apart


def swaps(args: argparse.Namespace) -> int:
    known, apart = known_apart(args)
    letters = "abcdefghij"[: len(args.places)]
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        for letter, place in zip(letters, args.places, strict=True):
            shutil.copytree(place, work / "repository" / letter)
        options = ("--repository", work / "repository", "--batch-size", args.batch_size, "--level", "calm")
        most = ("--max-connections", 2 * args.clients)
        with loradar(work, [f"m@a-0={work / 'repository' / 'a'}"], args.base, *options, *most) as started:
            server = replace(started, path=f"{started.path}?top=10")  # so that ten probabilities are checked
            still = finish(start(load_of(server, known, args, args.clients, 60 * args.minutes / 5)))
            before = server.megabytes
            asking = start(load_of(server, known, args, args.clients, 60 * args.minutes))
            try:
                done, loads = _swap(server, letters, args)
            except BaseException:
                asking.kill()
                raise
            swapped, after = finish(asking), server.megabytes
    console = Console()
    _compare(console, {"without swaps": still, "with swaps": swapped})
    console.print(
        f"{done} swaps, {loads} of them of a version that was just loaded; answers by place: {swapped.by_version}"
    )
    console.print(
        f"memory of the server {before:.0f} MB before, {after:.0f} after; places answer at least {apart:.1e} apart"
    )
    content = {"without": _figures(still), "with": _figures(swapped), "swaps": done, "loads": loads}
    memory = {"megabytes": [before, after], "least_apart": apart}
    _write("serving-swaps", args, known, content | memory)
    return _verdict([still, swapped])


def rolling(args: argparse.Namespace) -> int:
    known, apart = known_apart(args)
    options = ("--batch-size", args.batch_size, "--level", "calm", "--replicas", args.replicas)
    most = ("--max-connections", 2 * args.clients)
    given = [f"m@{letter}={place}" for letter, place in zip("abcdefghij", args.places, strict=False)]
    took = []
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        with loradar(work, given[:1], args.base, *options, *most) as started:
            server = replace(started, path=f"{started.path}?top=10")  # so that ten probabilities are checked
            still = finish(start(load_of(server, known, args, args.clients, 60 * args.minutes / 5)))
            ends = time.monotonic() + 60 * args.minutes
            asking = start(load_of(server, known, args, args.clients, 60 * args.minutes))
            try:
                for one in given[1:]:
                    began = time.monotonic()
                    update(work, server, [one], args.base, *options, *most)
                    took.append(time.monotonic() - began)
            except BaseException:
                asking.kill()
                raise
            late = time.monotonic() > ends
            rolled = finish(asking)
    if late:
        raise SystemExit(f"the updates took {sum(took):.0f} s, longer than the clients asked; give it more --minutes")
    console = Console()
    _compare(console, {"without updates": still, "with updates": rolled})
    said = ", ".join(f"{seconds:.0f}" for seconds in took)
    console.print(f"{len(took)} updates, in {said} seconds; answers by place: {rolled.by_version}")
    content = {"without": _figures(still), "with": _figures(rolled), "update_seconds": took, "least_apart": apart}
    _write("serving-rolling", args, known, content)
    return _verdict([still, rolled])


def _compare(console: Console, outcomes: dict[str, Outcome]) -> None:
    table = Table("", "answers", "a second", "p50 ms", "p99 ms", "failed", "different")
    for name, one in outcomes.items():
        figures = [value for value in _figures(one).values() if isinstance(value, int | float)]
        table.add_row(name, *(f"{value:,}" if isinstance(value, int) else f"{value:.1f}" for value in figures))
    console.print(table)


def _swap(server: Server, letters: str, args: argparse.Namespace) -> tuple[int, int]:
    """Swaps evenly over the minutes, while clients ask; returns how many swaps and loads there were."""
    client, began, done, old = Client(f"http://127.0.0.1:{server.port}"), time.monotonic(), 0, "a-0"

    def paced(act: Callable[[], object]) -> None:
        nonlocal done
        time.sleep(max(0.0, began + 60 * args.minutes * done / args.swaps - time.monotonic()))
        act()
        done += 1

    for turn in itertools.count(1):
        if done >= args.swaps or time.monotonic() > began + 60 * args.minutes:  # the clients have ended
            return done, turn - 1
        letter = letters[turn % len(letters)]
        new = client.load("m", letter, version=f"{letter}-{turn}")["version"]
        paced(lambda: client.activate("m", new))  # noqa: B023
        paced(lambda: client.weigh("m", {new: 0.5, old: 0.5}))  # noqa: B023
        paced(lambda: client.roll_back("m"))
        paced(lambda: client.activate("m", new))  # noqa: B023
        client.unload("m", old)
        old = new
    raise AssertionError


def _over(ours: Case, other: Case) -> list[float]:
    return [own / theirs if theirs else float("nan") for own, theirs in zip(ours.rates, other.rates, strict=True)]


def _figures(found: Outcome) -> dict[str, Any]:
    values = {"answers": len(found.seconds), "per_second": found.rate}
    values |= {"p50_ms": found.percentile(0.5), "p99_ms": found.percentile(0.99)}
    return values | {"failed": found.failed, "different": found.different, "by_version": found.by_version}


def _ms(case: Case, share: float) -> str:
    return f"{statistics.median(one.percentile(share) for one in case.outcomes):.1f}"


def _said(values: Sequence[float], digits: int) -> str:
    return f"{statistics.median(values):.{digits}f} ({min(values):.{digits}f} - {max(values):.{digits}f})"


def _table(
    title: str, columns: list[str], cases: dict[tuple[str, int], Case], clients: list[int], say: Callable[[Case], str]
) -> None:
    table = Table(title, *columns)
    for name in dict.fromkeys(name for name, _ in cases):
        table.add_row(name, *(say(cases[name, n]) for n in clients))
    Console().print(table)


def _verdict(outcomes: Sequence[Outcome]) -> int:
    failed, different = sum(one.failed for one in outcomes), sum(one.different for one in outcomes)
    print(f"{failed} requests failed, {different} answers differ, of {sum(len(one.seconds) for one in outcomes)}")
    for line in [line for one in outcomes for line in one.said][:10]:
        print(f"  {line}")
    return int(failed + different > 0)


def _write(name: str, args: argparse.Namespace, known: Sequence[Known], content: dict[str, Any]) -> None:
    settings = {key: value for key, value in vars(args).items() if key not in ("places", "base", "run")}
    places = [
        {"name": Path(place).name, "kind": one.served.kind, "input_size": one.served.input_size}
        for place, one in zip(args.places, known, strict=True)
    ]
    RESULTS.mkdir(exist_ok=True)
    whole = {"settings": settings | {"places": places}, "machine": machine(), **content}
    (RESULTS / f"{name}.json").write_text(json.dumps(whole, indent=1) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(required=True, metavar="throughput | swaps | rolling")
    one = commands.add_parser("throughput")
    one.add_argument("places", nargs=1, metavar="PLACE")
    one.add_argument("--clients", type=int, nargs="+", default=[1, 8, 64])
    one.add_argument("--seconds", type=float, default=20)
    one.add_argument("--repeats", type=int, default=3)
    one.set_defaults(run=throughput)
    one = commands.add_parser("swaps")
    one.add_argument("places", nargs="+", metavar="PLACE")
    one.add_argument("--clients", type=int, default=64)
    one.add_argument("--minutes", type=float, default=10)
    one.add_argument("--swaps", type=int, default=1000)
    one.set_defaults(run=swaps)
    one = commands.add_parser("rolling")
    one.add_argument("places", nargs="+", metavar="PLACE")
    one.add_argument("--clients", type=int, default=8)
    one.add_argument("--minutes", type=float, default=5)
    one.add_argument("--replicas", default="2")
    one.set_defaults(run=rolling)
    for one in commands.choices.values():
        one.add_argument("--base")
        one.add_argument("--batch-size", type=int, default=32)
    args = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that servers are ended
    raise SystemExit(args.run(args))


if __name__ == "__main__":
    main()
