"""What the server says, as JSON: models, answers, and errors in one line."""

import heapq
from typing import Any

from loradar.guard.traffic import NOTHING
from loradar.serve.models import Answer, Served
from loradar.serve.registry import Model


def model_reply(model: Model) -> dict[str, Any]:
    """A model with its versions. No places: they are the server's own."""
    active = model.versions[model.active].served if model.active else None
    return {
        "name": model.name,
        "kind": active.kind if active else None,
        "active": model.active or None,
        "versions": [
            {
                "version": name,
                "fingerprint": version.fingerprint or None,
                "state": version.state,
                "loaded": version.served is not None,
            }
            for name, version in model.versions.items()
        ],
        "weights": dict(model.weights),
        "classes": list(active.classes) if active else [],
        "input_size": list(active.input_size) if active else None,
    }


def answers_reply(served: Served, answers: list[Answer], *, top: int, voters: bool) -> dict[str, Any]:
    """The answers of one version to the images of a request, in order."""
    return {
        "model": served.name,
        "version": served.version,
        "fingerprint": served.fingerprint,
        "predictions": [_prediction(served, answer, top, voters) for answer in answers],
    }


def _prediction(served: Served, answer: Answer, top: int, voters: bool) -> dict[str, Any]:
    # plain numbers: an operation on a tensor would wait for the thread that computes
    shares = answer.probabilities.tolist()
    labels = heapq.nlargest(top, range(len(shares)), key=shares.__getitem__)
    reply: dict[str, Any] = {
        "class": served.classes[answer.label] if answer.label >= 0 else NOTHING,
        "label": answer.label,
        "probability": shares[labels[0]],
        "top": [{"class": served.classes[label], "label": label, "probability": shares[label]} for label in labels],
        "suspected": _named("attack", answer.suspected),
        "measures": list(answer.measures),
    }
    if answer.level is not None:
        reply["level"] = answer.level
    if voters and answer.voters is not None:
        reply["voters"] = {name: _named("class", vote) for name, vote in answer.voters.items()}
    return reply


def _named(key: str, found: tuple[str, float] | None) -> dict[str, Any] | None:
    return None if found is None else {key: found[0], "probability": found[1]}
