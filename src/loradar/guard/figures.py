"""What a guard said, as a report shows it: names, confidence, cost, examples."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from loradar.core.types import Attack, Images, Labels
from loradar.evaluation import device_of
from loradar.guard.calibration import reliability
from loradar.guard.features import loudest
from loradar.guard.guard import Guard
from loradar.report.guards import CONFIDENT, Cost, CostPoint, Identification, Reliability, Suspect

DETECTED = 0.95
"""The share of attacked images that is detected where false alarms are counted."""
_GATES = (0.5, 0.7, 0.9, 0.97, 0.99, 0.999, 0.9999)
_EXAMPLES = 2


@dataclass(frozen=True, kw_only=True, eq=False)
class Judged:
    """A guard's verdict on all images, on the CPU: fields of `Verdict`."""

    answers: Labels
    posterior: Tensor
    named: Tensor
    log_probs: Tensor
    gate: Tensor
    passes: Tensor


@dataclass(frozen=True, kw_only=True, eq=False)
class Looked:
    """The guard, as it is deployed, on `known` traffic by kind ("clean" first) and on `strange` threats; and `everything`
    it would have said of the known traffic had all adapters run on all images."""

    y: Labels
    images: Mapping[str, Images]
    known: Mapping[str, Judged]
    strange: Mapping[str, Judged]
    everything: Mapping[str, Judged]


def judged(guard: Guard, x: Images, *, batch_size: int) -> Judged:
    """The verdict on all of `x`, in batches. Answers are -1 where the guard abstains."""
    device = device_of(guard)
    with torch.no_grad():
        found = [guard.predict_full(batch.to(device)) for batch in torch.split(x, batch_size)]
    return Judged(
        answers=torch.cat([v.answers for v in found]).cpu(),
        posterior=torch.cat([v.posterior for v in found]).cpu(),
        named=torch.cat([v.named for v in found]).cpu(),
        log_probs=torch.cat([v.log_probs for v in found], dim=1).cpu(),
        gate=torch.cat([v.gate for v in found]).cpu(),
        passes=torch.cat([v.passes for v in found]).cpu(),
    )


def identification_of(looked: Looked, labels: Sequence[str]) -> Identification:
    """Names against truth, over known traffic and strange threats."""
    from sklearn.metrics import confusion_matrix, roc_auc_score  # here: it takes seconds to import

    kinds = [labels.index(name) for name in looked.known]
    truth = torch.cat([torch.full((len(v.answers),), k) for k, v in zip(kinds, looked.known.values(), strict=True)])
    posterior = torch.cat([v.posterior for v in looked.known.values()])
    names = torch.cat([v.named for v in looked.known.values()]).argmax(1)
    strange = {
        name: Counter(labels[i] for i in verdict.named.argmax(1).tolist()) for name, verdict in looked.strange.items()
    }
    sure = {name: int((verdict.named[:, 1:-1].amax(1) >= CONFIDENT).sum()) for name, verdict in looked.strange.items()}
    table = confusion_matrix(truth, names, labels=range(len(labels))).tolist()
    table[-1] = [sum(counts[label] for counts in strange.values()) for label in labels]
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
            name: {label: counts[label] for label in labels if counts[label]} for name, counts in strange.items()
        },
        sure=sure,
    )


def cost_of(looked: Looked, guard: Guard, whole: Mapping[str, float]) -> Cost:
    """Passes by kind of traffic, and accuracy on the mixture as the gate's threshold moves."""
    y = looked.y
    per_image = {name: float(verdict.passes.mean()) for name, verdict in looked.known.items()}
    per_image["everything runs"] = float(guard.costs.sum())
    points = [_point("the gate as it is", looked.known, y), _point("everything runs", looked.everything, y)]
    points += [_gated(gate, looked.everything, y, float(guard.costs[:2].sum())) for gate in _GATES]
    for index, voter in enumerate(guard.settings.voters):
        right = sum(int((v.log_probs[index].argmax(1) == y).sum()) for v in looked.everything.values())
        points.append(
            CostPoint(label=f"{voter} alone", passes=whole[voter], correct=right, total=len(y) * len(looked.known))
        )
    return Cost(forwards_per_image=per_image, points=tuple(points))


def _gated(gate: float, verdicts: Mapping[str, Judged], y: Labels, least: float) -> CostPoint:
    """Were the gate's threshold `gate`: the base's answer, at the cost of `least`, for whatever passes it."""
    passes, correct = [], 0
    for verdict in verdicts.values():
        through = verdict.gate >= gate
        correct += int((torch.where(through, verdict.log_probs[0].argmax(1), verdict.answers) == y).sum())
        passes.append(torch.where(through, least, verdict.passes))
    return CostPoint(
        label=f"gate at {gate:g}", passes=float(torch.cat(passes).mean()), correct=correct, total=len(y) * len(passes)
    )


def _point(label: str, verdicts: Mapping[str, Judged], y: Labels) -> CostPoint:
    return CostPoint(
        label=label,
        passes=float(torch.cat([v.passes for v in verdicts.values()]).mean()),
        correct=sum(int((v.answers == y).sum()) for v in verdicts.values()),
        total=len(y) * len(verdicts),
    )


def reliabilities_of(looked: Looked, guard: Guard) -> tuple[Reliability, ...]:
    """Of every voter, calibrated, over clean and transferred images."""
    found = []
    log_probs = torch.cat([v.log_probs for v in looked.everything.values()], dim=1)
    y = looked.y.repeat(len(looked.everything))
    for index, name in enumerate(guard.settings.voters):
        confidence, answers = log_probs[index].exp().max(1)
        bins = reliability(confidence, answers == y)
        found.append(
            Reliability(
                model=name, counts=bins.counts, confidences=bins.confidences, rights=bins.rights, error=bins.error
            )
        )
    return tuple(found)


def suspects_of(
    looked: Looked, guard: Guard, classes: Sequence[str], attacks: Mapping[str, Attack]
) -> tuple[Suspect, ...]:
    """The first images of each kind; a rectangle is drawn where the name given is that of an attack on one."""
    window, labels = guard.settings.window, guard.settings.labels
    rectangles = {name for name, attack in attacks.items() if isinstance(attack.traits.region, tuple)}
    found = []
    for done, verdict in looked.known.items():
        x = looked.images[done][:_EXAMPLES]
        corners = loudest(x, window=window).tolist()
        probabilities, names = (t.tolist() for t in verdict.named[:_EXAMPLES].max(1))
        for i, corner in enumerate(corners):
            named, answer = labels[names[i]], int(verdict.answers[i])
            found.append(
                Suspect.of(
                    x[i],
                    rectangle=(*corner, *window) if named in rectangles else None,
                    done=done,
                    named=named,
                    probability=probabilities[i],
                    label=classes[int(looked.y[i])],
                    answer=classes[answer] if answer >= 0 else "none",
                )
            )
    return tuple(found)
