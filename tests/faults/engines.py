"""Kills workers, drivers and nodes of spread runs at random moments, and compares what the runs end with.

`python -m tests.faults.engines --on ray --workers 30 --drivers 10 --nodes 5` prints a table; so does
`python -m tests.faults.engines shards --images 10000 --data SOURCE`, for shards of attacked images of which two are killed.
Nodes are killed on Ray alone, as processes of a cluster on this machine.
"""

import argparse
import os
import random
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from loradar.core.errors import LoradarError
from loradar.core.processes import is_running
from loradar.jobs.tasks import attempts, read_plan
from tests.cluster.runs import command, processes, results, write

Victim = Literal["worker", "driver", "node"]
_MOST_PER_RUN = 5
_EPISODES = 60


@dataclass
class Count:
    """Of one kind of victim: kills, and after how many of them something was wrong."""

    kills: int = 0
    runs: int = 0
    wrong_bits: int = 0
    done_twice: int = 0
    orphans: int = 0
    not_ended: list[str] = field(default_factory=list)

    @property
    def wrong(self) -> int:
        return self.wrong_bits + self.done_twice + self.orphans + len(self.not_ended)


@dataclass(frozen=True, kw_only=True, eq=False)
class Campaign:
    """Runs with the bits that they should end with, and where they are made."""

    folder: Path
    engine: str
    alone: dict[str, bytes]
    draws: random.Random

    def kill(self, victim: Victim, kills: int) -> Count:
        """Starts runs until `kills` victims were killed; each run is started again until it ends."""
        count = Count()
        while count.kills < kills:
            out = self.folder / f"{victim}-{count.runs}"
            count.runs += 1
            with self._nodes(victim, out) as cluster:
                self._one(victim, out, min(_MOST_PER_RUN, kills - count.kills), count, cluster)
            print(f"{victim}: {count.kills} killed, {count.runs} runs, {count.wrong} wrong", flush=True)
        return count

    def _one(self, victim: Victim, out: Path, kills: int, count: Count, cluster: Any) -> None:
        args = ["run", write(self.folder, out, episodes=_EPISODES), "--on", self.engine, "--retries", "20"]
        args += ["--ray", cluster.address] if cluster else ["--workers", "2"]
        process = command(*args, mark=out)
        left, before = kills, count.kills
        while left and process.poll() is None:
            time.sleep(self.draws.uniform(0.5, 8))
            if process.poll() is None and self._struck(victim, out, process, cluster):
                count.kills += 1
                left -= 1
                if victim == "driver":
                    process.communicate()
                    count.orphans += not _all_gone(out)
                    process = command(*args, mark=out)
        said, _ = process.communicate(timeout=900)
        if count.kills == before and process.returncode == 0:
            return  # it was over before anybody was killed
        if process.returncode:
            count.not_ended.append(said[-300:])
        count.wrong_bits += results(out) != self.alone
        count.done_twice += _done_twice(out)
        count.orphans += not _all_gone(out)

    def _struck(self, victim: Victim, out: Path, process: "subprocess.Popen[str]", cluster: Any) -> bool:
        if victim == "driver":
            process.kill()
            return True
        if victim == "node":
            nodes = sorted(cluster.worker_nodes, key=lambda node: node.unique_id)
            cluster.remove_node(self.draws.choice(nodes), allow_graceful=False)
            cluster.add_node(num_cpus=1)
            return True
        with suppress(LoradarError, ProcessLookupError):
            busy = [one for task in read_plan(out) for one in attempts(task)[-1:] if not one.outcome]
            busy = [one for one in busy if is_running(one.process)]
            if busy:
                os.kill(self.draws.choice(busy).process.pid, signal.SIGKILL)
                return True
        return False

    @contextmanager
    def _nodes(self, victim: Victim, out: Path) -> Iterator[Any]:
        """A cluster of a head without work and two nodes, for killing nodes; None otherwise."""
        if victim != "node":
            yield None
            return
        from ray.cluster_utils import Cluster

        os.environ["MARK"] = str(out.with_suffix(".cluster"))
        cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0})
        try:
            cluster.add_node(num_cpus=1)
            cluster.add_node(num_cpus=1)
            yield cluster
        finally:
            cluster.shutdown()


def _all_gone(mark: object, seconds: float = 60) -> bool:
    until = time.monotonic() + seconds
    while processes(mark) and time.monotonic() < until:
        time.sleep(0.2)
    return not processes(mark)


def _done_twice(out: Path) -> int:
    """Tasks that anybody tried again after they were done."""
    tried = [attempts(task) for task in read_plan(out)]
    return sum(any(one.outcome == "done" for one in each[:-1]) for each in tried)


def shards(data: str, images: int, folder: Path) -> None:
    """Crafts images in 8 shards on two processes, two of which are killed, and at once; prints whether they are equal."""
    stages = f"""
out: OUT
stages:
  base: {{job: pretrain, architecture: "timm:test_resnet", data: '{data}', train: 500, validation: 100, max_test_images: 100,
         epochs: 1, precision: fp32}}
  craft: {{job: craft, base: "${{base}}", data: '{data}', attacks: ["pgd=pgd:steps=5"], split: train, train: {images},
          validation: 100, max_test_images: 100, batch_size: 100, shards: SHARDS, precision: fp32, cache: OUT/cache}}
"""
    found = {}
    for name, count, engine in (("single", 1, "local"), ("sharded", 8, "processes")):
        out = folder / name
        (folder / f"{name}.yaml").write_text(stages.replace("OUT", str(out)).replace("SHARDS", str(count)))
        began = time.monotonic()
        args = ["--workers", "2"] if engine == "processes" else []
        process = command("run", folder / f"{name}.yaml", "--on", engine, "--threads", "1", *args, mark=out)
        killed: set[int] = set()
        while engine == "processes" and len(killed) < 2 and process.poll() is None:
            time.sleep(0.5)
            with suppress(LoradarError, ProcessLookupError):
                for task in read_plan(out):
                    last = attempts(task)[-1:]
                    half = len(list((out / "cache").rglob("*.safetensors"))) > 10 * (1 + len(killed))
                    if half and task.part and last and not last[0].outcome and is_running(last[0].process):
                        os.kill(last[0].process.pid, signal.SIGKILL)
                        killed.add(last[0].process.pid)
                        break
        said, _ = process.communicate()
        assert process.returncode == 0, said
        found[name] = (out / "craft" / "pgd.safetensors").read_bytes()
        print(f"{name}: {images:,} images, {len(killed)} workers killed, {time.monotonic() - began:.0f} s", flush=True)
    print(f"equal to the bit: {found['single'] == found['sharded']} ({len(found['single']):,} bytes)")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", nargs="?", choices=["kills", "shards"], default="kills")
    parser.add_argument("--on", choices=["processes", "ray"], default="processes")
    parser.add_argument("--workers", type=int, default=10)
    parser.add_argument("--drivers", type=int, default=3)
    parser.add_argument("--nodes", type=int, default=0)
    parser.add_argument("--images", type=int, default=1000)
    parser.add_argument("--data", default="digits")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="engines-"))
    if args.what == "shards":
        shards(args.data, args.images, folder)
        shutil.rmtree(folder)
        return
    alone = command("run", write(folder, folder / "alone", episodes=_EPISODES), "--threads", "1")
    said, _ = alone.communicate()
    assert alone.returncode == 0, said
    campaign = Campaign(folder=folder, engine=args.on, alone=results(folder / "alone"), draws=random.Random(args.seed))
    victims: list[tuple[Victim, int]] = [("worker", args.workers), ("driver", args.drivers), ("node", args.nodes)]
    counts = {victim: campaign.kill(victim, kills) for victim, kills in victims if kills}
    print(f"{'victim':8}{'kills':>6}{'runs':>6}{'wrong bits':>12}{'done twice':>12}{'orphans':>9}{'not ended':>11}")
    for victim, one in counts.items():
        print(
            f"{victim:8}{one.kills:6}{one.runs:6}{one.wrong_bits:12}{one.done_twice:12}{one.orphans:9}{len(one.not_ended):11}"
        )
        for text in one.not_ended:
            print(text)
    if not any(one.wrong for one in counts.values()):
        shutil.rmtree(folder)


if __name__ == "__main__":
    main()
