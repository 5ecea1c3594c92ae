"""What users may import: a name that goes away, or comes without being meant to, is seen here."""

import importlib

import pytest

PUBLIC = {
    "attacks": {
        *("FGSM", "FIA", "MIFGSM", "PGD", "ROA", "AutoAttack", "OneOf", "Pyramid", "UniformNoise", "WorstOf", "ascend"),
        "strongest",
    },
    "adapters": {
        *(
            "PRESETS",
            "Adapter",
            "AdapterPool",
            "AdapterSwitch",
            "Card",
            "Delta",
            "Start",
            "find_head",
            "find_norms",
            "find_targets",
        ),
        *("check_shared_start", "fingerprint", "fold", "fresh", "load", "merge", "on_residual", "plug", "residual"),
        *("save", "start", "trimmed", "truncated", "verify", "whole", "without_head"),
    },
    "models": {
        *("Autocast", "Base", "Normalized", "Pair", "Precision", "Stages", "build", "cast_weights", "frozen"),
        *("load_base", "mergeable", "new_base", "nimble", "quick", "resolve_precision", "save_base", "staged", "wrap"),
    },
    "data": {
        *("CORRUPTIONS", "SEVERITIES", "Corruption", "ImageSet", "Source", "Splits", "augment", "corrupt"),
        *("load_source", "read_images", "split", "varied"),
    },
    "fewshot": {
        *("Blending", "Episode", "FineTuning", "FixedEpisodes", "MeanLogits", "Sampler", "Scoring"),
        *("CENTROID", "Centroids", "HeadKind", "HeadRule", "Ridge", "TaskClassifier"),
        *("Joint", "Transduction"),
        *("VariableEpisodes", "cosine_logits", "cosines", "parse_setting", "prototypes_of"),
    },
    "training": {
        *("KL", "AdversarialCache", "FitSettings", "LossOf", "RawPerturbation", "RelativePerturbation", "Step"),
        *("WeightPerturbation", "clean_loss", "drift", "fit", "moved", "one_to_one", "perturbed_loss", "robust_loss"),
    },
    "guard": {
        *("ABSTAINED", "BASE", "CLEAN", "FUSIONS", "MEASURES", "RULES", "STATEMENT", "UNKNOWN", "Bins"),
        *("Calibration", "Event", "Guard", "GuardRecord", "GuardSettings", "Identifier", "Level", "MaskSet"),
        *("Measure", "Opinions", "Parts", "Policy", "Rule", "Surrogate", "TrafficMonitor", "Trunk", "Verdict"),
        *(
            "calibrate",
            "certified",
            "cleansed",
            "fit_identifier",
            "fit_prior",
            "loudest",
            "opinion_features",
            "pair_answers",
        ),
        *("read_guard", "reliability", "residual_statistics", "save_guard", "share", "two_round"),
    },
}


@pytest.mark.parametrize("family", PUBLIC)
def test_a_family_exports_what_it_means_to(family: str) -> None:
    module = importlib.import_module(f"loradar.{family}")
    assert set(module.__all__) == PUBLIC[family]
    assert all(hasattr(module, name) for name in module.__all__)
