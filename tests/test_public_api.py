"""What users may import: a name that goes away, or comes without being meant to, is seen here."""

import importlib

import pytest

PUBLIC = {
    "attacks": """
        APGD ARTAttack AttackInfo AutoAttack BaseAttack FGSM FIA FoolboxAttack ForeignAttack FunctionAttack MIFGSM MSD
        NormAttack
        PGD Pyramid ROA RandomChoice SettingInfo Smooth TorchAttack UniformNoise WorstOf as_attack ascend
        available_attacks describe_attack named_attack named_attacks parse_attack register selection_attack
        strongest training_attack without_gradient
    """,
    "adapters": """
        Adapter AdapterPool AdapterSwitch Card Delta Factored Init Norm PRESETS add_weighted check_shared_start
        factor feature_extractor find_head find_heads find_norms find_targets fingerprint full_adapter init_adapter
        init_delta load load_named merge_weights on_residual plug rank_in_words read_adapter residual save target_share
        truncate_spectrum truncated update_merged verify
    """,
    "models": """
        Autocast Base MultiStageFeatures Normalized Pair Precision build cast_weights foldable_conv_bn
        load_base new_base open_base optimize_for_inference pick_device resolve_precision save_base
        skip_padding staged with_autocast wrap
    """,
    "data": """
        BENIGN_KINDS CORRUPTIONS Corruption ImageSet SEVERITIES Source Splits as_source augment change_benignly corrupt
        fetch_all
        load_source read_images split varied
    """,
    "training": """
        ALONE AWP AdversarialCache Epoch FitSettings KL LossOf Objective RawPerturbation Step Training Validation
        WeightAverage WeightPerturbation World adversarial_loss best_epoch cache_at clean_loss distillation_loss fit joined
        mart_loss moved
        perturbed_loss read_epochs trades_loss train
    """,
    "evaluation": """
        AccuracyResult BatteryMember BatteryResult Check LabelLeakResult LeakPower MemberResult NO_ATTACK Picture
        PlantedLabel Probe Sign Target Workbench WorstCase accuracy_row check_worst_cases check_classes
        check_masking check_transfer check_unseen correct device_of labels leak_test open_bench png predict
        run_attack short_names sign_test versions wilson worst_case
    """,
    "integrations": "art_attack foolbox_attack lightning_callback trainer_callback",
    "serve": "Client",
}


@pytest.mark.parametrize("package", PUBLIC)
def test_a_package_exports_what_it_means_to(package: str) -> None:
    module = importlib.import_module(f"loradar.{package}")
    assert set(module.__all__) == set(PUBLIC[package].split())
    assert all(hasattr(module, name) for name in module.__all__)
