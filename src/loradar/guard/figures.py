"""A guard's verdicts as a report shows them: names, confidence, cost, examples."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch

from loradar.core.types import Attack, Images, Labels
from loradar.guard.calibration import reliability
from loradar.guard.calibration_data import FITTED_KINDS, UNTOUCHED
from loradar.guard.features import highest_energy_window
from loradar.guard.guard import Guard, Verdict
from loradar.report.guards import (
    CONFIDENT,
    Alarms,
    Cost,
    CostPoint,
    Detection,
    Identification,
    Reliability,
    Suspect,
)

DETECTED = 0.95
"""The share of attacked images that is detected where false alarms are counted."""
_GATES = (0.5, 0.7, 0.9, 0.97, 0.99, 0.999, 0.9999)
_EXAMPLES = 2


@dataclass(frozen=True, kw_only=True, eq=False)
class TrafficVerdicts:
    """The guard's verdicts by kind of traffic: `known` ("clean" first), from `images` with labels `y`, and `unfitted`.

    `benign` are those on benign changes of the clean images, `strange` on the attacks that it was fitted to call unknown.
    `uncascaded` are those on known traffic if all adapters ran on all images.
    """

    y: Labels
    images: Mapping[str, Images]
    known: Mapping[str, Verdict]
    unfitted: Mapping[str, Verdict]
    benign: Mapping[str, Verdict]
    strange: Mapping[str, Verdict]
    uncascaded: Mapping[str, Verdict]


def identification_of(verdicts: TrafficVerdicts, labels: Sequence[str]) -> Identification:
    """Compares identified with true labels, over known traffic and unfitted threats."""
    from sklearn.metrics import confusion_matrix, roc_auc_score  # here: it takes seconds to import

    kinds = [labels.index(name) for name in verdicts.known]
    truth = torch.cat([torch.full((len(v.answers),), k) for k, v in zip(kinds, verdicts.known.values(), strict=True)])
    posterior = torch.cat([v.posterior for v in verdicts.known.values()])
    names = torch.cat([v.named for v in verdicts.known.values()]).argmax(1)
    unfitted = {
        name: Counter(labels[i] for i in verdict.named.argmax(1).tolist())
        for name, verdict in verdicts.unfitted.items()
    }
    sure = {
        name: int((verdict.named[:, 1:-1].amax(1) >= CONFIDENT).sum()) for name, verdict in verdicts.unfitted.items()
    }
    table = confusion_matrix(truth, names, labels=range(len(labels))).tolist()
    table[-1] = [sum(counts[label] for counts in unfitted.values()) for label in labels]
    suspicion = 1 - posterior[:, 0]
    clean, attacked = suspicion[truth == 0], suspicion[truth != 0]
    limit = torch.quantile(attacked, 1 - DETECTED)
    return Identification(
        labels=tuple(labels),
        confusion=tuple(tuple(row) for row in table),
        fpr95=float((clean >= limit).double().mean()),
        auroc={
            labels[kind]: float(
                roc_auc_score(truth[(truth == 0) | (truth == kind)] != 0, suspicion[(truth == 0) | (truth == kind)])
            )
            for kind in kinds[1:]
        },
        # the kinds are as frequent here as the posterior without the prior takes them to be
        calibration_error=reliability(posterior.amax(1), posterior.argmax(1) == truth).error,
        unfitted={
            name: {label: counts[label] for label in labels if counts[label]} for name, counts in unfitted.items()
        },
        sure=sure,
    )


def alarms_of(verdicts: TrafficVerdicts, *, calibrated: bool) -> tuple[Alarms, ...]:
    """Counts false alarms on untouched images and on every benign kind. `calibrated`: the guard knows of such kinds."""
    kinds = {UNTOUCHED: verdicts.known["clean"], **verdicts.benign}
    return tuple(
        Alarms(
            kind=kind,
            alarms=int((verdict.named.argmax(1) != 0).sum()),
            total=len(verdict.answers),
            fitted=kind == UNTOUCHED or (calibrated and kind in FITTED_KINDS),
        )
        for kind, verdict in kinds.items()
    )


def detections_of(verdicts: TrafficVerdicts) -> tuple[Detection, ...]:
    """Counts what is not named clean, and what is and does harm, under every attack: known, strange, and unfitted."""
    known = {name: verdict for name, verdict in verdicts.known.items() if name != "clean"}
    found = []
    for group in (known, verdicts.strange, verdicts.unfitted):
        for name, verdict in group.items():
            missed = verdict.named.argmax(1) == 0
            found.append(
                Detection(
                    attack=name,
                    detected=int((~missed).sum()),
                    harmful=int((missed & (verdict.answers != verdicts.y)).sum()),
                    total=len(missed),
                    known=group is known,
                    fitted=group is not verdicts.unfitted,
                )
            )
    return tuple(found)


def cost_of(verdicts: TrafficVerdicts, guard: Guard) -> Cost:
    """Averages passes by kind of traffic, and counts right answers on the mixture as the gate's threshold moves."""
    y = verdicts.y
    per_image = {name: float(verdict.passes.mean()) for name, verdict in verdicts.known.items()}
    per_image["everything runs"] = float(guard.costs.sum())
    points = [_point("the gate as it is", verdicts.known, y), _point("everything runs", verdicts.uncascaded, y)]
    points += [_gated(gate, verdicts.uncascaded, y, float(guard.costs[:2].sum())) for gate in _GATES]
    for index, voter in enumerate(guard.settings.voters):
        right = sum(int((v.log_probs[index].argmax(1) == y).sum()) for v in verdicts.uncascaded.values())
        points.append(CostPoint(label=f"{voter} alone", passes=1.0, correct=right, total=len(y) * len(verdicts.known)))
    return Cost(forwards_per_image=per_image, points=tuple(points))


def _gated(gate: float, verdicts: Mapping[str, Verdict], y: Labels, least: float) -> CostPoint:
    """Counts with the gate's threshold at `gate`: the base answers whatever passes it, at the cost of `least`."""
    passes, correct = [], 0
    for verdict in verdicts.values():
        through = verdict.gate >= gate
        correct += int((torch.where(through, verdict.log_probs[0].argmax(1), verdict.answers) == y).sum())
        passes.append(torch.where(through, least, verdict.passes))
    return CostPoint(
        label=f"gate at {gate:g}", passes=float(torch.cat(passes).mean()), correct=correct, total=len(y) * len(passes)
    )


def _point(label: str, verdicts: Mapping[str, Verdict], y: Labels) -> CostPoint:
    return CostPoint(
        label=label,
        passes=float(torch.cat([v.passes for v in verdicts.values()]).mean()),
        correct=sum(int((v.answers == y).sum()) for v in verdicts.values()),
        total=len(y) * len(verdicts),
    )


def reliabilities_of(verdicts: TrafficVerdicts, guard: Guard) -> tuple[Reliability, ...]:
    """Bins every voter's calibrated confidence, over clean and transferred images."""
    rows = []
    log_probs = torch.cat([v.log_probs for v in verdicts.uncascaded.values()], dim=1)
    y = verdicts.y.repeat(len(verdicts.uncascaded))
    for index, name in enumerate(guard.settings.voters):
        confidence, answers = log_probs[index].exp().max(1)
        bins = reliability(confidence, answers == y)
        rows.append(Reliability(model=name, error=bins.error, **vars(bins)))
    return tuple(rows)


def suspects_of(
    verdicts: TrafficVerdicts, guard: Guard, classes: Sequence[str], attacks: Mapping[str, Attack]
) -> tuple[Suspect, ...]:
    """Shows the first images of each kind, with a rectangle where one is suspected."""
    window, labels = guard.settings.window, guard.settings.labels
    rectangles = {name for name, attack in attacks.items() if isinstance(attack.traits.region, tuple)}
    suspects = []
    for done, verdict in verdicts.known.items():
        x = verdicts.images[done][:_EXAMPLES]
        corners = highest_energy_window(x, window=window).tolist()
        probabilities, names = (t.tolist() for t in verdict.named[:_EXAMPLES].max(1))
        for i, corner in enumerate(corners):
            named, answer = labels[names[i]], int(verdict.answers[i])
            suspects.append(
                Suspect.of(
                    x[i],
                    rectangle=(*corner, *window) if named in rectangles else None,
                    done=done,
                    named=named,
                    probability=probabilities[i],
                    label=classes[int(verdicts.y[i])],
                    answer=classes[answer] if answer >= 0 else "none",
                )
            )
    return tuple(suspects)
