"""The identifier: which attack an image carries, as a posterior over clean, the known threats, and unknown."""

import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from loradar.core.errors import BadConfigError
from loradar.guard.calibration import conformal_limit, least_count
from loradar.guard.policy import CLEAN, UNKNOWN

_PARTS = ("center", "scale", "weight_in", "bias_in", "weight_out", "bias_out", "means", "precision", "limits")
HIDDEN = 48
_HAIR = 1e-4
_HIGHEST = 700.0
"""Logarithm of the largest odds: beyond it they are no finite number."""


class Identifier(nn.Module):
    """Maps features (batch, k) to a posterior (batch, labels); `labels` are clean, the threats, unknown.

    A perceptron of one hidden layer tells the labels apart. Outliers, farther from all known kinds of images than nearly
    all calibration images were, are unknown whatever the perceptron says (Mahalanobis distance to `means`, one for each
    kind of clean traffic and each threat, with one shared covariance; Lee et al., "A Simple Unified Framework for
    Detecting Out-of-Distribution Samples and Adversarial Attacks", 2018, section 2.1).
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
            "means": (len(tensors["means"]), features),
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

        `odds` (labels,), logarithms of a prior, are added; the farther an outlier is, the less they move it.
        """
        values = self.scaled(features)
        limit, width = self.limits
        beyond = ((self.distance(values) - limit) / width)[:, None]
        scores = F.linear(F.relu(F.linear(values, self.weight_in, self.bias_in)), self.weight_out, self.bias_out)
        near = scores.log_softmax(1) + F.logsigmoid(-beyond)
        found = torch.cat([near[:, :-1], torch.logaddexp(near[:, -1:], F.logsigmoid(beyond))], dim=1)
        return found if odds is None else (found + odds).log_softmax(1)

    def scaled(self, features: Tensor) -> Tensor:
        """Centers and scales features as those that it was fitted on."""
        return (features.float() - self.center) / self.scale

    def distance(self, values: Tensor) -> Tensor:
        """Computes the Mahalanobis distance of scaled features to the nearest mean, per feature: (batch,)."""
        gaps = values[:, None] - self.means[None]
        squares = ((gaps @ self.precision) * gaps).sum(2).clamp_min(0).amin(1)
        return (squares / values.shape[1] + 1e-12).sqrt()


@dataclass(frozen=True, kw_only=True, eq=False)
class Examples:
    """Features (n, k), their labels, the kinds of traffic that they are of, and the images that they were made of.

    `labels` (n,) are 0 for clean, 1 + i for threat i, the last for what is no known threat. `kinds` (n,) number the kinds,
    of which a label may have several: clean images are untouched, or compressed, and so on. `origins` (n,) number the
    images: one may have several variants of a kind.
    """

    features: Tensor
    labels: Tensor
    kinds: Tensor
    origins: Tensor

    def of(self, rows: Tensor) -> "Examples":
        """Takes the rows of a mask or an index."""
        return Examples(**{name: tensor[rows] for name, tensor in vars(self).items()})


def fit_identifier(
    examples: Examples, held: Examples, *, threats: Sequence[str], outlier_rate: float = 0.02, seed: int
) -> Identifier:
    """Fits on `examples`; of each known kind of `held` the share `outlier_rate` may count as outliers.

    The perceptron is not fitted on `held`. Every label counts alike in the posterior, however many examples it has.
    Raises BadConfigError where a label has fewer than 2 examples.
    """
    names = (CLEAN, *threats, UNKNOWN)
    counts = torch.bincount(examples.labels, minlength=len(names))
    if int(counts.min()) < 2:
        raise BadConfigError(
            f"{names[int(counts.argmin())]!r} has {int(counts.min())} calibration images; expected 2 or more"
        )
    center, scale = examples.features.mean(0), examples.features.std(0).clamp_min(1e-3)
    values = ((examples.features - center) / scale).double()
    means, precision = _distribution(values, examples, unknown=len(names) - 1)
    tensors = {
        "center": center,
        "scale": scale,
        **_perceptron(values, examples.labels, counts, seed),
        "means": means,
        "precision": precision,
        "limits": torch.tensor([1.0, 1.0]),
    }
    identifier = Identifier(names, tensors)
    known = held.of(held.labels < len(names) - 1)
    distances = identifier.distance(identifier.scaled(known.features))
    limits = [_least(distances[known.kinds == kind], 1 - outlier_rate) for kind in torch.unique(known.kinds)]
    limit = torch.stack(limits).max()
    identifier.limits.copy_(torch.stack([limit, ((limit - distances.median()) / 8).clamp_min(1e-3)]))
    return identifier


def _perceptron(values: Tensor, labels: Tensor, counts: Tensor, seed: int) -> dict[str, Tensor]:
    from sklearn.exceptions import ConvergenceWarning  # here: it takes seconds to import
    from sklearn.neural_network import MLPClassifier

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
    return {
        "weight_in": torch.from_numpy(model.coefs_[0].T),
        "bias_in": torch.from_numpy(model.intercepts_[0]),
        "weight_out": torch.from_numpy(model.coefs_[1].T),
        # without the labels' frequencies among the examples
        "bias_out": torch.from_numpy(model.intercepts_[1]) - counts.double().log(),
    }


def _distribution(values: Tensor, examples: Examples, *, unknown: int) -> tuple[Tensor, Tensor]:
    """The mean of each known kind, and the precision matrix that they share."""
    from sklearn.covariance import LedoitWolf  # here: it takes seconds to import

    known = examples.labels < unknown
    kinds, places = torch.unique(examples.kinds[known], return_inverse=True)
    means = torch.stack([values[known][places == place].mean(0) for place in range(len(kinds))])
    spread = LedoitWolf(assume_centered=True).fit((values[known] - means[places]).numpy())
    return means, torch.from_numpy(spread.precision_)


def fit_prior(
    log_posterior: Tensor, examples: Examples, held: Tensor, *, threats: Sequence[str], max_fpr: float
) -> dict[str, float]:
    """Fits priors of the threats and of unknown, beside 1 for clean, that keep to `max_fpr`. None is above 1.

    They are thresholds in the form of odds, not frequencies. `log_posterior` (n, labels) is that of the examples, of which
    `held` (n,) bool were not fitted on. Each label starts at the odds at which fitted images of the worst clean kind would
    reach it with probability `max_fpr`, so that a threat that looks like noise does not silence the others; unknown, if
    need be, lower, so that `max_fpr` of the known attacks are called so (but no more than by a factor of `max_fpr`). Then
    all are lowered by one factor until one more clean image, of any kind among the held-out ones, is called anything but
    clean with probability `max_fpr` at most (see `conformal_limit`): the worst kind decides. Raises BadConfigError where a
    kind has too few images for that.
    """
    suspicion = log_posterior[:, 1:] - log_posterior[:, :1]
    clean = examples.labels == 0
    kinds = [clean & (examples.kinds == kind) for kind in torch.unique(examples.kinds[clean])]
    tails = torch.stack([_least(suspicion[rows & ~held], 1 - max_fpr) for rows in kinds]).amax(0)
    known = held & ~clean & (examples.labels < log_posterior.shape[1] - 1)
    margins = (suspicion - tails)[known]
    rarer = -float(_most(margins[:, :-1].amax(1) - margins[:, -1], max_fpr))
    tails[-1] += min(max(0.0, rarer + _HAIR), -math.log(max_fpr))
    excess = (suspicion - tails).amax(1)
    limit = max(_limit(excess[rows & held], examples.origins[rows & held], max_fpr) for rows in kinds)
    odds = (-tails - limit - _HAIR).clamp(-_HIGHEST, 0)
    return dict(zip((*threats, UNKNOWN), odds.double().exp().tolist(), strict=True))


def _limit(scores: Tensor, origins: Tensor, max_fpr: float) -> float:
    """The threshold of one kind. Every image has as many variants."""
    images = len(torch.unique(origins))
    limit = conformal_limit(scores, max_fpr, draws=len(scores) // max(1, images))
    if limit == math.inf:
        raise BadConfigError(
            f"{images} held-out clean images cannot keep false alarms to {max_fpr:g}; expected {least_count(max_fpr)} or more"
        )
    return limit


def _least(values: Tensor, share: float) -> Tensor:
    """Returns the least of the `values` (n, ...) that `share` of them do not exceed."""
    return torch.quantile(values, share, dim=0, interpolation="higher")


def _most(values: Tensor, share: float) -> Tensor:
    """Returns the largest of the `values` that no more than `share` of them fall below."""
    return torch.quantile(values, share, interpolation="lower")
