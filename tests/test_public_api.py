"""What users may import: a name that goes away, or comes without being meant to, is seen here."""

import importlib

import pytest

PUBLIC = {
    "attacks": {
        *("FGSM", "FIA", "MIFGSM", "PGD", "ROA", "AutoAttack", "Pyramid", "UniformNoise", "WorstOf", "ascend"),
        "strongest",
    },
    "adapters": {
        *("PRESETS", "Adapter", "AdapterPool", "Card", "Delta", "Start", "find_head", "find_norms", "find_targets"),
        *("check_shared_start", "fingerprint", "fold", "fresh", "load", "merge", "on_residual", "plug", "residual"),
        *("save", "start", "trimmed", "truncated", "verify", "without_head"),
    },
    "models": {
        *("Autocast", "Base", "Normalized", "Pair", "Precision", "build", "frozen", "load_base", "mergeable"),
        *("new_base", "nimble", "quick", "resolve_precision", "save_base", "wrap"),
    },
    "data": {
        *("CORRUPTIONS", "SEVERITIES", "Corruption", "ImageSet", "Source", "Splits", "augment", "corrupt"),
        *("load_source", "read_images", "split", "varied"),
    },
    "fewshot": {
        *("Blending", "Episode", "FineTuning", "FixedEpisodes", "MeanLogits", "NearestCentroid", "Sampler"),
        *("VariableEpisodes", "cosine_logits", "cosines", "parse_setting", "prototypes_of"),
    },
    "training": {
        *("KL", "AdversarialCache", "FitSettings", "LossOf", "RawPerturbation", "RelativePerturbation", "Step"),
        *("WeightPerturbation", "clean_loss", "drift", "fit", "moved", "one_to_one", "perturbed_loss", "robust_loss"),
    },
}


@pytest.mark.parametrize("family", PUBLIC)
def test_a_family_exports_what_it_means_to(family: str) -> None:
    module = importlib.import_module(f"loradar.{family}")
    assert set(module.__all__) == PUBLIC[family]
    assert all(hasattr(module, name) for name in module.__all__)
