"""Rules of the network's mode while it is evaluated."""

from __future__ import annotations

from goodfit.doctor.examination import Examination
from goodfit.doctor.finding import Finding, Rule, Stage

MIN_DROPOUT = 0.02  # below, nothing is lost by it


def find_evaluated_in_train_mode(exam: Examination) -> Finding | None:
    """The patient's evaluation calls the network in training mode, and the network has layers that behave otherwise there."""
    signs = exam.evaluation()
    if not signs.in_training_mode or not (signs.norm_in_training or signs.dropout > MIN_DROPOUT):
        return None
    layers = " and ".join(
        name for name, is_there in (("batch norm", signs.norm_in_training), ("dropout", signs.dropout > MIN_DROPOUT)) if is_there
    )
    return Finding(
        "evaluated_in_train_mode",
        0.97,
        f"The network is in training mode while it is evaluated, with {layers} at work: it scores {100 * signs.accuracy:.1f} % there and"
        f" {100 * signs.honest:.1f} % in evaluation mode.",
        "Call model.eval() before the evaluation, and model.train() after it.",
    )


def find_dropout_at_test(exam: Examination) -> Finding | None:
    """Dropout is at work in the patient's evaluation although the network is in evaluation mode."""
    signs = exam.evaluation()
    if signs.in_training_mode or signs.dropout <= MIN_DROPOUT:
        return None
    return Finding(
        "dropout_at_test",
        0.97,
        f"Dropout of {signs.dropout:.2f} is at work while the network is evaluated: {100 * signs.accuracy:.1f} % once,"
        f" {100 * signs.again:.1f} % the next time.",
        "Give the dropout training=self.training, or use nn.Dropout, so that model.eval() turns it off.",
    )


RULES = (
    Rule(
        "evaluated_in_train_mode",
        Stage.START,
        find_evaluated_in_train_mode,
        {"dropout_at_test": "there the network is in evaluation mode, and only the dropout is not"},
    ),
    Rule(
        "dropout_at_test",
        Stage.START,
        find_dropout_at_test,
        {"evaluated_in_train_mode": "there the network as a whole is in training mode"},
    ),
)
