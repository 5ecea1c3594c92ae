"""The identifier: which attack an image carries, as a posterior over clean, the known threats, and unknown."""

import warnings
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from loradar.core.errors import BadConfigError
from loradar.guard.policy import CLEAN, UNKNOWN

_PARTS = ("center", "scale", "weight_in", "bias_in", "weight_out", "bias_out", "means", "precision", "limits")
HIDDEN = 48
_LEAST = 1e-9
_HAIR = 1e-4


class Identifier(nn.Module):
    """Maps features (batch, k) to a posterior (batch, labels); `labels` are clean, the threats, unknown.

    A perceptron of one hidden layer tells the labels apart. Outliers, farther from all known labels than nearly all
    calibration images were, are unknown whatever the perceptron says (Mahalanobis distance with one shared covariance;
    Lee et al., "A Simple Unified Framework for Detecting Out-of-Distribution Samples and Adversarial Attacks", 2018,
    section 2.1).
    """

    center: Tensor
    scale: Tensor
    weight_in: Tensor
    bias_in: Tensor
    weight_out: Tensor
    bias_out: Tensor
    means: Tensor
    precision: Tensor
    limits: Tensor

    def __init__(self, labels: Sequence[str], tensors: dict[str, Tensor]) -> None:
        """Raises BadConfigError where the tensors do not fit each other or the labels."""
        super().__init__()
        self.labels = tuple(labels)
        known = len(labels) - 1
        if set(tensors) != set(_PARTS):
            raise BadConfigError(f"an identifier has the tensors {', '.join(_PARTS)}; got {', '.join(sorted(tensors))}")
        features, hidden = tensors["center"].numel(), tensors["bias_in"].numel()
        shapes = {
            "center": (features,),
            "scale": (features,),
            "weight_in": (hidden, features),
            "bias_in": (hidden,),
            "weight_out": (known + 1, hidden),
            "bias_out": (known + 1,),
            "means": (known, features),
            "precision": (features, features),
            "limits": (2,),
        }
        for name, shape in shapes.items():
            if tuple(tensors[name].shape) != shape:
                raise BadConfigError(
                    f"the identifier's {name} has shape {tuple(tensors[name].shape)}; expected {shape} for "
                    f"{len(labels)} labels"
                )
            self.register_buffer(name, tensors[name].detach().clone().float())

    def forward(self, features: Tensor) -> Tensor:
        return self.log_posterior(features).exp()

    def log_posterior(self, features: Tensor, odds: Tensor | None = None) -> Tensor:
        """Computes the posterior's logarithm, (batch, labels): it has a gradient where the probability rounds to 0.

        `odds` (labels,), logarithms, are added to the perceptron's scores; an outlier stays unknown whatever they are.
        """
        values = self._scaled(features)
        limit, width = self.limits
        beyond = ((self.distance(values) - limit) / width)[:, None]
        near = self._classified(values, odds) + F.logsigmoid(-beyond)
        return torch.cat([near[:, :-1], torch.logaddexp(near[:, -1:], F.logsigmoid(beyond))], dim=1)

    def classifier_posterior(self, features: Tensor) -> Tensor:
        """Computes the posterior by the perceptron alone, (batch, labels), as it is for images that are no outliers."""
        return self._classified(self._scaled(features)).exp()

    def _scaled(self, features: Tensor) -> Tensor:
        return (features.float() - self.center) / self.scale

    def _classified(self, values: Tensor, odds: Tensor | None = None) -> Tensor:
        scores = F.linear(F.relu(F.linear(values, self.weight_in, self.bias_in)), self.weight_out, self.bias_out)
        return (scores if odds is None else scores + odds).log_softmax(1)

    def is_outlier(self, features: Tensor) -> Tensor:
        """Tells which lie farther from all known labels than nearly all calibration images did: (batch,) bool."""
        return self.distance(self._scaled(features)) > self.limits[0]

    def distance(self, values: Tensor) -> Tensor:
        """Computes the Mahalanobis distance of scaled features to the nearest label's mean, per feature: (batch,)."""
        gaps = values[:, None] - self.means[None]
        squares = ((gaps @ self.precision) * gaps).sum(2).clamp_min(0).amin(1)
        return (squares / values.shape[1] + 1e-12).sqrt()


def fit_identifier(
    features: Tensor,
    labels: Tensor,
    *,
    threats: Sequence[str],
    held: Tensor,
    held_labels: Tensor,
    outlier_rate: float = 0.02,
    seed: int,
) -> Identifier:
    """Fits on `features` (n, k) with `labels` (n,): 0 for clean, 1 + i for threat i, the last for pseudo-unknowns.

    `held` (m, k) are features of known labels, `held_labels` (m,), that the perceptron is not fitted on: of each label the
    share `outlier_rate` may count as outliers. Raises BadConfigError where a label has fewer than 2 images.
    """
    names = (CLEAN, *threats, UNKNOWN)
    counts = torch.bincount(labels, minlength=len(names))
    if int(counts.min()) < 2:
        raise BadConfigError(
            f"{names[int(counts.argmin())]!r} has {int(counts.min())} calibration images; expected 2 or more"
        )
    from sklearn.covariance import LedoitWolf  # here: it takes seconds to import
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.neural_network import MLPClassifier

    center, scale = features.mean(0), features.std(0).clamp_min(1e-3)
    values = ((features - center) / scale).double()
    model = MLPClassifier(
        (HIDDEN,),
        alpha=1.0,
        max_iter=300,
        random_state=seed % 2**32,  # scikit-learn takes 32 bits without a sign
        batch_size=min(200, len(values)),
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # a small set need not be fitted to the last digit
        model.fit(values.numpy(), labels.numpy())
    known = labels < len(names) - 1
    means = torch.stack([values[labels == i].mean(0) for i in range(len(names) - 1)])
    spread = LedoitWolf(assume_centered=True).fit((values[known] - means[labels[known]]).numpy())
    tensors = {
        "center": center,
        "scale": scale,
        "weight_in": torch.from_numpy(model.coefs_[0].T),
        "bias_in": torch.from_numpy(model.intercepts_[0]),
        "weight_out": torch.from_numpy(model.coefs_[1].T),
        "bias_out": torch.from_numpy(model.intercepts_[1]),
        "means": means,
        "precision": torch.from_numpy(spread.precision_),
        "limits": torch.tensor([1.0, 1.0]),
    }
    identifier = Identifier(names, tensors)
    distances = identifier.distance((held.float() - identifier.center) / identifier.scale)
    limits = [_least(distances[held_labels == label], 1 - outlier_rate) for label in set(held_labels.tolist())]
    limit = torch.stack(limits).max()
    identifier.limits.copy_(torch.stack([limit, ((limit - distances.median()) / 8).clamp_min(1e-3)]))
    return identifier


def fit_prior(posterior: Tensor, kinds: Tensor, *, max_fpr: float) -> dict[str, float]:
    """Fits the largest prior of unknown (1 at most), and then the least of clean (1 at least), that keep to `max_fpr`.

    They are thresholds in the form of odds, not frequencies. `posterior` (n, labels) is `Identifier.classifier_posterior`
    of images that are no outliers; `kinds` (n,) are their true labels, none of them unknown. The share `max_fpr` of the
    attacked images may be called unknown, and half of it of the clean ones anything but clean: the other half is left
    for outliers, which no prior moves. Neither prior goes beyond `max_fpr` to 1: otherwise one odd image among few would
    silence the identifier.
    """
    clean, threats, unknown = posterior[:, 0], posterior[:, 1:-1].amax(1), posterior[:, -1]
    odds = (threats / unknown.clamp_min(_LEAST))[kinds > 0]
    # a hair on the safe side: the image on the quantile itself must keep its label
    rare = max(max_fpr, min(1.0, float(_most(odds, max_fpr)) * (1 - _HAIR)))
    odds = (torch.maximum(threats, rare * unknown) / clean.clamp_min(_LEAST))[kinds == 0]
    usual = min(1 / max_fpr, max(1.0, float(_least(odds, 1 - max_fpr / 2)) * (1 + _HAIR)))
    return {CLEAN: usual, UNKNOWN: rare}


def _least(values: Tensor, share: float) -> Tensor:
    """Returns the least of the `values` that `share` of them do not exceed."""
    return torch.quantile(values, share, interpolation="higher")


def _most(values: Tensor, share: float) -> Tensor:
    """Returns the largest of the `values` that no more than `share` of them fall below."""
    return torch.quantile(values, share, interpolation="lower")
