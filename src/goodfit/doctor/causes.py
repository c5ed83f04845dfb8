"""The causes of a bad training that the doctor tells apart, by component."""

from __future__ import annotations

from typing import Literal

Component = Literal["data", "model", "optimization", "loop", "evaluation", "system"]

BY_COMPONENT: dict[Component, dict[str, str]] = {
    "data": {
        "label_noise": "Labels are wrong for a share of the images.",
        "label_confusion": "A share of one class carries the label of another.",
        "labels_shifted": "Labels belong to other images than those they stand beside.",
        "labels_out_of_range": "Labels are not whole numbers from 0 to the number of classes less one.",
        "duplicates_in_train": "Many training images occur more than once.",
        "leakage_exact": "Validation images are also among the training images.",
        "leakage_near": "Validation images have near duplicates among the training images.",
        "inputs_not_scaled": "Inputs are far larger than a network's weights are made for.",
        "inputs_scaled_twice": "Inputs are far too small, or far from zero for how little they vary.",
        "channels_swapped": "Colors come in another order than the pretrained weights expect.",
        "class_missing": "A class has no images in a split.",
        "class_imbalance": "Few classes hold nearly all images, and nothing makes up for it.",
        "not_shuffled": "Batches hold one or few classes.",
        "blank_images": "Many images are blank.",
        "augmentation_too_strong": "Augmentation destroys what the label is about.",
        "resolution_too_low": "Images are too small to tell the classes apart.",
        "distribution_shift": "Validation images come from elsewhere than the training images.",
        "shortcut": "A mark that has nothing to do with the class gives the class away.",
        "overfitting": "There are too few images, or too little regularization, for the network.",
    },
    "model": {
        "dead_relu": "Many units are zero for every image.",
        "saturated": "Many units are at the flat ends of their activation.",
        "constant_init": "The weights of a layer start equal.",
        "init_too_small": "Weights start so small that signals die on the way up.",
        "init_too_large": "Weights start so large that scores explode.",
        "softmax_twice": "Probabilities are handed to a loss that expects scores.",
        "missing_nonlinearity": "Layers follow one another without a nonlinearity between them.",
        "capacity_too_small": "The network is too small for the task.",
        "wrong_outputs": "The network has more outputs than there are classes.",
        "batch_too_small_for_norm": "Batch norm takes its statistics from too few images.",
        "dropout_too_strong": "Dropout leaves too little.",
        "missing_skip": "The network is deep and has no shortcuts.",
        "images_mixed": "The output for an image depends on the other images of its batch.",
        "vanishing_gradient": "Gradients die on the way down.",
        "exploding_gradient": "Gradients grow on the way down.",
    },
    "optimization": {
        "frozen_by_mistake": "Weights that are random do not learn.",
        "lr_too_high": "The learning rate is too high.",
        "lr_too_low": "The learning rate is too low.",
        "no_decay": "A learning rate that never falls keeps the loss up.",
        "decay_too_early": "The learning rate falls long before the end.",
        "no_warmup": "The first steps are too large.",
        "momentum_too_high": "Momentum carries the steps past their aim.",
        "weight_decay_too_strong": "Weight decay shrinks the weights faster than they learn.",
        "clip_too_tight": "Nearly every gradient is clipped to nearly nothing.",
        "trained_too_short": "The budget ends while the loss still falls fast.",
        "regularized_too_much": "Weight decay, dropout and augmentation together leave too little to learn.",
        "stopped_too_early": "Training stops while it is going well.",
    },
    "loop": {
        "gradients_not_zeroed": "Gradients of earlier steps are added to those of each step.",
        "wrong_sign": "Steps go uphill.",
        "low_precision": "Numbers or updates are lost in low precision.",
        "wrong_loss": "The loss does not fit the task.",
        "optimizer_state_lost": "The optimizer starts anew on the way.",
    },
    "evaluation": {
        "channels_differ": "Colors come in another order in validation than in training.",
        "preprocessing_differs": "Validation images are prepared otherwise than training images.",
        "label_order_differs": "Class numbers mean other classes in validation than in training.",
        "augmentation_at_validation": "Validation images are augmented at random.",
        "validation_too_small": "There are too few validation images for their accuracy to mean much.",
        "evaluated_in_train_mode": "The network is in training mode while it is evaluated.",
        "dropout_at_test": "Dropout stays on while the network is evaluated.",
    },
    "system": {
        "data_starved": "Steps wait for data.",
        "threads_oversubscribed": "There are more threads than processor cores.",
        "nondeterministic": "The same seed gives different results.",
        "memory_leak": "Memory grows with every step.",
    },
}
COMPONENT_OF: dict[str, Component] = {cause: component for component, causes in BY_COMPONENT.items() for cause in causes}
SENTENCES: dict[str, str] = {cause: sentence for causes in BY_COMPONENT.values() for cause, sentence in causes.items()}
