"""Sections of the help: which flag stands in which."""

from collections.abc import Collection

_PANELS = {
    "Model": "models base adapter architecture guard candidate pool key",
    "Data": """
        data size train validation max_test_images support shot domain in_domain images_per_class validation_data
        validation_classes validation_episodes calibration calibration_data split
    """,
    "Tasks": "setting query episodes search search_episodes",
    "Attacks": """
        attacks transfer_attacks adaptive_attacks sweep_attacks unfitted threat adaptive effort max_adaptive_images
        max_certified_images attack_target attack eps_255 step attacked_episodes attacked_query corrupted_episodes
        evade_steps
    """,
    "Adapter": "target_modules rank max_bytes lora_alpha init norm head baselines full literal ablations member",
    "Blending": """
        score robust dial support_attack compactness beta top rank_keep_ratio n_augmentations fine_tune fine_tune_episodes
        transductive
    """,
    "Training": """
        preset recipe clean_weight objective train_steps epochs batch_size optimizer learning_rate clean_learning_rate
        full_learning_rate weight_decay momentum schedule step_size gamma warm_up label_smoothing average_decay
        max_grad_norm weight_perturbation crop flip distill_weight perturbation perturbation_step kl adversarial_weight
    """,
    "Fusion and identification": "fusion base_votes abstain cascade answered_by gate_fnr max_fpr strangers",
    "Defenses": "respond force forbid rectangle masks",
    "Serving": """
        host port keys repository queue timeout max_body_bytes max_pixels max_images max_connections rate memory level window
        webhook try_attacks replicas ray
    """,
    "Engine": "on workers cpus gpus memory_gb slurm threads retries store shard shards",
    "Output": "to out wait cache tensorboard",
    "Computing": "precision device seed seconds",
}
_OF = {key: panel for panel, keys in _PANELS.items() for key in keys.split()}


def panel_of(field: str, fields: Collection[str] = ()) -> str | None:
    """The section of one of a schema's `fields`; None for one that belongs to none."""
    panel = _OF.get(field)
    # the batch size, where nothing is trained
    return "Computing" if panel == "Training" and "epochs" not in fields else panel


def place_of(panel: str) -> int:
    """Where a section stands: arguments first, then as above, then what belongs to none."""
    order = ["Arguments", *_PANELS]
    return order.index(panel) if panel in order else len(order)
