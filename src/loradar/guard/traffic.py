"""A guard on a stream of image files: a finding for each, and the level of alarm that follows from the traffic."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from loradar.core.errors import BadDataError
from loradar.core.types import Images
from loradar.data import read_images
from loradar.data.pictures import visible_files
from loradar.guard.guard import Guard, Verdict
from loradar.guard.monitor import Event, TrafficMonitor
from loradar.guard.policy import Level

NOTHING = "none"


@dataclass(frozen=True, kw_only=True)
class Finding:
    """The result for one image.

    `answer` is a class, "none" where the guard abstains; `voters` are each one's class and calibrated confidence, and
    None for those that were not asked; `suspected` is clean, a threat or unknown, with its `probability`; `passes` the
    work in forward passes of the base.
    """

    image: str
    answer: str
    confidence: float
    voters: Mapping[str, tuple[str, float] | None]
    suspected: str
    probability: float
    defenses: tuple[str, ...]
    level: Level
    passes: float


@dataclass(frozen=True, kw_only=True, eq=False)
class Traffic:
    """One stream of images through one guard. The level that the monitor sets applies to the images that come next."""

    guard: Guard
    monitor: TrafficMonitor

    def look(self, names: Sequence[str], x: Images) -> tuple[list[Finding], list[Event]]:
        """Classifies a batch; returns a finding for each image, in order, and the decisions of the monitor."""
        guard = self.guard
        if guard.settings.level != self.monitor.level:
            guard = guard.replace(level=self.monitor.level)
        verdict = guard.predict_full(x)
        findings = findings_of(guard, verdict, names)
        events = [
            event
            for finding in findings
            for event in self.monitor.observe(
                finding.suspected, defenses=finding.defenses, confidence=finding.probability
            )
        ]
        return findings, events


def findings_of(guard: Guard, verdict: Verdict, names: Sequence[str]) -> list[Finding]:
    """Reads the finding for each image, by its name, out of the verdict that `guard` gave on their batch."""
    settings = guard.settings
    # of the whole batch at once: a server's other threads wait for every operation
    confidence = verdict.logits.softmax(1).amax(1).tolist()
    probability, label = (values.tolist() for values in verdict.named.max(1))
    defended, passes = verdict.defended.tolist(), verdict.passes.tolist()
    votes = {name: _votes(guard, verdict.log_probs[i]) for i, name in enumerate(settings.voters)}
    findings = []
    for index, answer in enumerate(verdict.answers.tolist()):
        suspected = settings.labels[label[index]]
        finding = Finding(
            image=names[index],
            answer=_class(guard, answer) if answer >= 0 else NOTHING,
            confidence=confidence[index],
            voters={name: vote[index] for name, vote in votes.items()},
            suspected=suspected,
            probability=probability[index],
            defenses=settings.policy.defenses_for(suspected, settings.level) if defended[index] else (),
            level=settings.level,
            passes=passes[index],
        )
        findings.append(finding)
    return findings


def _votes(guard: Guard, log_probs: Tensor) -> list[tuple[str, float] | None]:
    """A voter's class and confidence for each image, (batch, classes); None where it was not asked."""
    missing = log_probs.isnan().any(1).tolist()
    top, answers = log_probs.max(1)
    found = zip(missing, answers.tolist(), top.exp().tolist(), strict=True)
    return [None if none else (_class(guard, answer), confidence) for none, answer, confidence in found]


def _class(guard: Guard, index: int) -> str:
    return guard.classes_[index] if guard.classes_ else str(index)


def open_traffic(guard: Guard, *, fixed: Level | None = None, window: int = 200) -> Traffic:
    """Starts a stream. With `fixed` the level of alarm stays; otherwise it follows the last `window` images."""
    return Traffic(guard=guard, monitor=TrafficMonitor(window=window, minimum=min(20, window), fixed=fixed))


def arrivals(folder: Path) -> dict[Path, tuple[int, ...]]:
    """Maps the files in `folder`, without hidden ones, to their states: with another state a file is to be read anew.

    Raises BadDataError where there is no such folder.
    """
    if not folder.is_dir():
        raise BadDataError(f"there is no folder {folder}; expected one that images arrive in")
    return {path: _state(path) for path in visible_files(folder)}


def _state(path: Path) -> tuple[int, ...]:
    try:
        found = path.stat()
    except OSError:  # taken away meanwhile, or a link to nothing
        return ()
    # the mode too: what could not be read may be allowed later
    return found.st_ino, found.st_size, found.st_mtime_ns, found.st_mode


def classify(traffic: Traffic, paths: Sequence[Path], *, batch_size: int = 32) -> Iterator[tuple[Finding, list[Event]]]:
    """Yields a finding for each file, in order; events come with the last one of their batch. Raises as `read_images`."""
    for start in range(0, len(paths), batch_size):
        chunk = paths[start : start + batch_size]
        x = read_images(chunk, size=traffic.guard.input_size[1:])
        findings, events = traffic.look([str(path) for path in chunk], x)
        for index, finding in enumerate(findings):
            yield finding, events if index == len(findings) - 1 else []
