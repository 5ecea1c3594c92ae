"""A few-shot classifier in Python, after scikit-learn's conventions."""

import inspect
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from loradar.adapters import Adapter, AdapterPool, save
from loradar.core.errors import BadConfigError, BadDataError, BadFileError, BadTargetError, did_you_mean
from loradar.evaluation import device_of
from loradar.fewshot.blending import Blending, Scoring
from loradar.fewshot.fit import FEW_SHOT, LABELS, FitJob, base_of_task, head_of, open_task, run, task_classifier
from loradar.fewshot.heads import HeadConfig, HeadKind, TaskClassifier
from loradar.fewshot.inputs import Array, Shape, as_images, as_labels, check_features, codes_of, opened
from loradar.fewshot.pools import PoolModels, head_of_pool, open_pool
from loradar.fewshot.transduction import Transduction, TransductiveHead
from loradar.models import Base

_AT_ONCE = 128


class FewShotClassifier:
    """Classifies images of a new task after a few labelled ones, on a frozen base and a pool of robust adapters.

    Nothing is trained: `fit` scores the pool's members on the support, blends the best, and makes a head in closed form.

    Args:
        base: a module from images in [0, 1] to logits, a `Base`, or a spec such as "runs/base". It is never changed.
        pool: an `AdapterPool` on that base, a folder that `loradar meta-tune` wrote, or None for the untuned base.
        head: "ridge" regression on features of length 1, or "centroid" (class means, as in the paper). By default what the
            pool was tuned under, ridge without a pool.
        robust: the dial from the best clean accuracy, 0, to the most robust, 1.
        member_score: what members are chosen by: "held-out" (answers to images of the support that were left out, clean and
            attacked, with the base among the members), "attacked" (stay right on the support when it is attacked),
            "compactness" (as in the paper: better on clean images like those of the tuning, weaker under attack), or "loss".
        compactness: weight of closeness against separation in a score by compactness, in [0, 1].
        beta: how much better scores weigh more, 0 or more.
        top: how many members are blended, at most; by "held-out" two were worth no more than the best one.
            The paper's "compactness" blends 2.
        rank_keep_ratio: share of the singular values that are kept of the blended weights, in (0, 1].
        n_augmentations: augmented copies of the support that members are scored on.
        features: "head", what the base's classification layer sees, or "output", the output (n, d) of a base that is no
            classifier (without a pool; such a task cannot be saved).
        transductive: answer all images of a call together. Better for many images of several classes, under corruptions
            above all; worse where all are of one class.
        seed: seeds the augmentation.

    Attributes:
        classes_: the labels, sorted.
        weights_: the share of each member in the blend; empty without a pool.
        adapter_: the task's adapter, which `plug` puts on the base.
        classifier_: the module from images to logits over `classes_`.

    Example:
        >>> import torch
        >>> base = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(12, 4))
        >>> x = torch.rand(6, 3, 2, 2)
        >>> task = FewShotClassifier(base).fit(x, ["cat", "dog", "cat", "dog", "cat", "dog"])
        >>> task.predict(x).shape, task.predict_proba(x).shape
        ((6,), torch.Size([6, 2]))
    """

    def __init__(
        self,
        base: nn.Module | Base | str,
        pool: AdapterPool | Path | str | None = None,
        *,
        head: HeadKind | None = None,
        robust: float = 0.5,
        member_score: Scoring = "held-out",
        compactness: float = 0.6,
        beta: float = 1.0,
        top: int = 1,
        rank_keep_ratio: float = 1.0,
        n_augmentations: int = 2,
        features: Literal["head", "output"] = "head",
        transductive: bool = False,
        seed: int = 0,
    ) -> None:
        self.base = base
        self.pool = pool
        self.head = head
        self.robust = robust
        self.member_score = member_score
        self.compactness = compactness
        self.beta = beta
        self.top = top
        self.rank_keep_ratio = rank_keep_ratio
        self.n_augmentations = n_augmentations
        self.features = features
        self.transductive = transductive
        self.seed = seed

    def get_params(self, deep: bool = True) -> dict[str, Any]:  # noqa: ARG002  # scikit-learn's signature
        """Returns the constructor's parameters, from which `sklearn.base.clone` makes an unfitted copy."""
        return {name: getattr(self, name) for name in list(inspect.signature(type(self)).parameters)}

    def set_params(self, **params: Any) -> "FewShotClassifier":
        """Sets parameters for the next `fit`. Raises BadConfigError for an unknown one."""
        known = self.get_params()
        for name, value in params.items():
            if name not in known:
                raise BadConfigError(f"there is no parameter {name!r}; {did_you_mean(name, known)}")
            setattr(self, name, value)
        return self

    def __sklearn_tags__(self) -> Any:
        """Tells scikit-learn that this is a classifier of images: its folds, searches and scorers ask."""
        from sklearn.utils import ClassifierTags, InputTags, Tags, TargetTags  # here: it takes seconds to import

        return Tags(
            estimator_type="classifier",
            target_tags=TargetTags(required=True),
            classifier_tags=ClassifierTags(),
            input_tags=InputTags(two_d_array=False),
        )

    def fit(self, x_support: Tensor | Array, y_support: Any) -> "FewShotClassifier":
        """Adapts to a task.

        Args:
            x_support: images (n, c, h, w) in [0, 1], a tensor or an array.
            y_support: n labels, integers or text: a tensor, an array or a list. Two classes or more.

        Raises:
            BadImagesError: images outside their contract, or of a shape that the base does not take.
            BadDataError: labels that are none, or too few classes.
            WrongBaseError: a pool of another base.
        """
        model, size = opened(self.base)
        x = as_images(x_support, size, "the base")
        labels = as_labels(y_support, len(x))
        classes = np.unique(labels)
        if len(classes) < 2:
            raise BadDataError(f"the support has 1 class, {classes.tolist()[0]!r}; a task needs 2 or more")
        pool = open_pool(self.pool) if isinstance(self.pool, str | Path) else self.pool
        head, transduction = self.head or head_of_pool(pool), Transduction() if self.transductive else None
        blending = Blending(
            score=self.member_score,
            robust=self.robust,
            compactness=self.compactness,
            beta=self.beta,
            top=self.top,
            rank_keep_ratio=self.rank_keep_ratio,
            head=HeadConfig(kind=head, transduction=transduction),
        )
        if self.features not in ("head", "output") or (self.features == "output" and pool is not None):
            raise BadConfigError(f"features is {self.features!r}; expected 'head', or, without a pool, 'output'")
        try:
            models = PoolModels.of(
                model,
                pool,
                n_augmentations=self.n_augmentations,
                seed=self.seed,
                from_output=self.features == "output",
            )
        except BadTargetError as error:
            raise BadTargetError(f"{error}; of a base that gives features, features='output' takes these") from error
        check_features(models.features, x[:1])
        job = FitJob(
            models=models,
            blending=blending,
            x=x,
            y=torch.from_numpy(np.searchsorted(classes, labels)),
            classes=tuple(str(label) for label in classes.tolist()),
            data={LABELS: classes.tolist()} | ({"base": self.base} if isinstance(self.base, str) else {}),
        )
        fitted = run(job)
        return self._learned(fitted.adapter, fitted.classifier, classes, fitted.weights, tuple(x.shape[1:]))

    def predict(self, x: Tensor | Array) -> Any:
        """Returns the labels (n,) of images (n, c, h, w): a tensor for a tensor, an array for an array and for text."""
        codes = self._logits(x).argmax(1).numpy()
        labels = self.classes_[codes]
        return torch.from_numpy(labels).to(x.device) if isinstance(x, Tensor) and labels.dtype.kind == "i" else labels

    def predict_proba(self, x: Tensor | Array) -> Any:
        """Returns the softmax of the logits, (n, classes), in the order of `classes_`; a tensor for a tensor."""
        return _as_given(self._logits(x).softmax(1), x)

    def decision_function(self, x: Tensor | Array) -> Any:
        """Returns the logits, (n, classes) also for two classes, in the order of `classes_`; a tensor for a tensor."""
        return _as_given(self._logits(x), x)

    def score(self, x: Tensor | Array, y: Any) -> float:
        """Returns the accuracy, in [0, 1]. Raises BadDataError for a label that the support did not have."""
        self._check_fitted()
        labels = as_labels(y, len(x))
        codes_of(labels, self.classes_)
        return float((self.classes_[self._logits(x).argmax(1).numpy()] == labels).mean())

    def save(self, folder: Path | str) -> Path:
        """Writes the adapter, which `load`, `plug` and `loradar few-shot classify` take; returns the folder.

        Raises BadConfigError where the base has no classification layer, or several, for the task's to replace.
        """
        self._check_fitted()
        if not self.adapter_.card.head:
            raise BadConfigError(
                "an adapter holds a task's head in the place of the base's, and this base has none, or several; put one "
                "behind it (torch.nn.Sequential(base, torch.nn.Linear(features, 2))) and fit again"
            )
        return save(self.adapter_.with_card(name=Path(folder).name), folder)

    @classmethod
    def load(
        cls,
        folder: Path | str,
        *,
        base: nn.Module | Base | str | None = None,
        support: tuple[Tensor | Array, Any] | None = None,
        key: str | Path | None = None,
    ) -> "FewShotClassifier":
        """Opens what `save` or `loradar few-shot fit` wrote, on `base`, by default the one that the folder names.

        With `support`, the images and labels that it was fitted on, answers are transductive. With `key`, the file
        of a public key, the folder must be signed by its owner. Raises BadFileError, WrongBaseError.
        """
        adapter = open_task(folder, key=key)
        card = adapter.card
        base = base_of_task(folder, adapter) if base is None else base
        classes = np.asarray(card.data.get(LABELS, card.classes))
        if len(classes) != len(card.classes):
            raise BadFileError(
                f"{folder} has {len(classes)} labels for {len(card.classes)} classes; get the folder anew"
            )
        task = cls(base, head=head_of(adapter), transductive=support is not None)
        model, size = opened(base)
        shown = None
        if support is not None:
            x = as_images(support[0], size, "the base")
            shown = x, torch.from_numpy(codes_of(as_labels(support[1], len(x)), classes))
        return task._learned(
            adapter, task_classifier(model, adapter, shown), classes, card.data.get(FEW_SHOT, {}), size
        )

    def _learned(
        self,
        adapter: Adapter,
        classifier: TaskClassifier,
        classes: Array,
        weights: Mapping[str, float],
        size: Shape | None,
    ) -> "FewShotClassifier":
        self.adapter_, self.classes_, self.weights_ = adapter, classes, dict(weights)
        self.classifier_, self._size = classifier, size
        return self

    def _check_fitted(self) -> None:
        if not hasattr(self, "adapter_"):
            from sklearn.exceptions import NotFittedError  # here: it takes seconds to import

            class TaskNotFittedError(BadConfigError, NotFittedError):  # type: ignore[misc]
                """A BadConfigError, which scikit-learn knows as its own."""

            raise TaskNotFittedError("this FewShotClassifier is not fitted; call fit(x_support, y_support) first")

    @torch.no_grad()
    def _logits(self, x: Tensor | Array) -> Tensor:
        """Returns the logits (n, classes), float32 on the CPU."""
        self._check_fitted()
        images = as_images(x, self._size, "the task")
        if self._size is None:
            check_features(self.classifier_.wrapped, images[:1])
        # a transductive head answers all images as one batch
        together = isinstance(self.classifier_.head, TransductiveHead)
        batches = [images] if together else torch.split(images, _AT_ONCE)
        device = device_of(self.classifier_)
        logits = torch.cat([self.classifier_(batch.to(device)).float().cpu() for batch in batches])
        if not bool(logits.isfinite().all()):
            raise BadDataError("the base gives NaN or infinite features for these images; check its weights")
        return logits


def _as_given(values: Tensor, x: Tensor | Array) -> Any:
    return values.to(x.device) if isinstance(x, Tensor) else values.numpy()
