"""What users may import: a name that goes away, or comes without being meant to, is seen here."""

import importlib

import pytest

PUBLIC = {
    "attacks": {"FGSM", "FIA", "MIFGSM", "PGD", "ROA", "AutoAttack", "UniformNoise", "WorstOf", "ascend", "strongest"},
    "adapters": {
        *("PRESETS", "Adapter", "AdapterPool", "Card", "Delta", "Start", "find_head", "find_norms", "find_targets"),
        *("fingerprint", "fold", "fresh", "load", "merge", "plug", "save", "start", "verify"),
    },
    "models": {
        *(
            "Autocast",
            "Base",
            "Normalized",
            "Pair",
            "Precision",
            "build",
            "frozen",
            "load_base",
            "mergeable",
            "new_base",
        ),
        *("nimble", "quick", "resolve_precision", "save_base", "wrap"),
    },
    "data": {"ImageSet", "Source", "Splits", "augment", "load_source", "split"},
    "training": {"AdversarialCache", "FitSettings", "LossOf", "Step", "clean_loss", "fit", "moved", "one_to_one"},
}


@pytest.mark.parametrize("family", PUBLIC)
def test_a_family_exports_what_it_means_to(family: str) -> None:
    module = importlib.import_module(f"loradar.{family}")
    assert set(module.__all__) == PUBLIC[family]
    assert all(hasattr(module, name) for name in module.__all__)
