"""The few-shot classifier under scikit-learn: its checks of estimators, its folds and its searches."""

import warnings
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.exceptions import NotFittedError, SkipTestWarning
from sklearn.metrics import make_scorer, roc_auc_score
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.utils import Tags
from sklearn.utils.estimator_checks import check_estimator

from loradar.core.errors import BadConfigError
from loradar.fewshot.classifier import FewShotClassifier

TWO_CLASSES = "decision_function is (n, classes) for two classes too"
LABELS = "labels are integers or text; the refusal is in our words"
OF_TABLES = "images have a shape, and no number of features"
SPARSE = "no image is sparse"
EXPECTED = {
    "check_classifiers_train": TWO_CLASSES,
    "check_classifiers_classes": TWO_CLASSES,
    "check_decision_proba_consistency": TWO_CLASSES,
    "check_classifiers_one_label": "a task has two classes or more",
    "check_classifiers_regression_target": LABELS,
    "check_complex_data": LABELS,
    "check_dtype_object": LABELS,
    "check_estimators_nan_inf": LABELS,
    "check_requires_y_none": LABELS,
    "check_supervised_y_2d": "labels (n, 1) are refused, not flattened under a warning",
    "check_n_features_in_after_fitting": OF_TABLES,
    "check_n_features_in": OF_TABLES,
    "check_estimators_empty_data_messages": OF_TABLES,
    "check_fit1d": OF_TABLES,
    "check_fit2d_predict1d": OF_TABLES,
    "check_estimator_sparse_tag": SPARSE,
    "check_estimator_sparse_array": SPARSE,
    "check_estimator_sparse_matrix": SPARSE,
}


def drawn(x: Any) -> Any:
    """A table (n, d) as images (n, d, 1, 1) in [0, 1]."""
    return 1 / (1 + np.exp(-np.asarray(x, dtype=np.float32)))[:, :, None, None]


class OfTables(FewShotClassifier):
    """The classifier behind `drawn`, for the checks, which give tables."""

    def __sklearn_tags__(self) -> Tags:
        tags: Tags = super().__sklearn_tags__()
        tags.input_tags.two_d_array = True
        return tags

    def fit(self, x: Any, y: Any) -> Any:
        return super().fit(drawn(x), y)

    def predict(self, x: Any) -> Any:
        return super().predict(drawn(x))

    def predict_proba(self, x: Any) -> Any:
        return super().predict_proba(drawn(x))

    def decision_function(self, x: Any) -> Any:
        return super().decision_function(drawn(x))

    def score(self, x: Any, y: Any) -> float:
        return super().score(drawn(x), y)


@pytest.mark.filterwarnings("ignore")
def test_it_passes_the_checks_of_estimators_but_for_those_with_a_reason() -> None:
    made = OfTables(torch.nn.Flatten(), features="output")
    results = check_estimator(made, expected_failed_checks=EXPECTED, on_fail=None, on_skip=None)
    assert not [(r["check_name"], r["exception"]) for r in results if r["status"] == "failed"]
    assert {r["check_name"] for r in results if r["status"] == "xfail"} == set(EXPECTED), "none is expected in vain"
    assert sum(r["status"] == "passed" for r in results) > 30


def test_scikit_learn_leaves_out_checks_of_tables_by_its_tags() -> None:
    with pytest.warns(SkipTestWarning, match="Can't test estimator FewShotClassifier"):
        results = check_estimator(FewShotClassifier(torch.nn.Flatten()))
    assert [r["status"] for r in results] == ["passed"] * len(results)


def test_folds_searches_and_scorers_take_it() -> None:
    rng = np.random.default_rng(0)
    y = np.arange(18) % 2
    x = (0.5 * rng.random((18, 3, 2, 2)) + 0.4 * y[:, None, None, None]).astype(np.float32)
    base = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(12, 4))
    task = FewShotClassifier(base, head="centroid")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        folds = cross_val_score(task, x, y, cv=3, error_score="raise")
        area = make_scorer(roc_auc_score, response_method="predict_proba")
        areas = cross_val_score(task, x, y, cv=3, scoring=area, error_score="raise")
        search = GridSearchCV(task, {"head": ["ridge", "centroid"]}, cv=3, error_score="raise").fit(x, y)
    by_hand = [FewShotClassifier(base, head="centroid").fit(x[6:], y[6:]).score(x[:6], y[:6])]
    assert folds[:1] == pytest.approx(by_hand)
    assert areas.shape == (3,)
    assert search.best_estimator_.predict(x).shape == (18,)
    with pytest.raises(NotFittedError, match="is not fitted; call fit") as caught:
        task.predict(x)
    assert isinstance(caught.value, BadConfigError)
