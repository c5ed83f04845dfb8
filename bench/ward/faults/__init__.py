"""All faults of the ward by name, and the causes they stand for with the component each belongs to."""

from __future__ import annotations

from bench.ward.faults import evaluation, labels, loop, model, optimization, pixels, system, unlisted, weights
from bench.ward.faults.fault import SEVERITIES, UNLISTED, Fault

FAULTS: dict[str, Fault] = {
    fault.name: fault
    for part in (labels, pixels, evaluation, weights, model, optimization, loop, system, unlisted)
    for fault in part.FAULTS
}

_CAUSES = {
    "data": (
        "label_noise label_confusion labels_shifted duplicates_in_train leakage_exact leakage_near inputs_not_scaled inputs_scaled_twice "
        "channels_swapped class_missing class_imbalance not_shuffled blank_images augmentation_too_strong labels_out_of_range "
        "resolution_too_low overfitting distribution_shift shortcut"
    ),
    "evaluation": (
        "channels_differ preprocessing_differs label_order_differs augmentation_at_validation validation_too_small "
        "evaluated_in_train_mode dropout_at_test"
    ),
    "model": (
        "dead_relu saturated constant_init init_too_small init_too_large softmax_twice missing_nonlinearity capacity_too_small "
        "wrong_outputs batch_too_small_for_norm dropout_too_strong missing_skip images_mixed vanishing_gradient exploding_gradient"
    ),
    "optimization": (
        "frozen_by_mistake lr_too_high lr_too_low no_decay decay_too_early no_warmup momentum_too_high weight_decay_too_strong "
        "clip_too_tight trained_too_short regularized_too_much stopped_too_early"
    ),
    "loop": "gradients_not_zeroed wrong_sign low_precision wrong_loss optimizer_state_lost",
    "system": "data_starved threads_oversubscribed nondeterministic memory_leak",
}
CAUSES: dict[str, str] = {cause: component for component, causes in _CAUSES.items() for cause in causes.split()}


def component_of(fault: Fault) -> str:
    """The component a fault belongs to."""
    return fault.component or CAUSES[fault.cause]


__all__ = ["CAUSES", "FAULTS", "SEVERITIES", "UNLISTED", "Fault", "component_of"]
