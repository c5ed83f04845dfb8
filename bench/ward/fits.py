"""Which patients a fault or a control fits."""

from __future__ import annotations

from bench.ward.patient import Patient

LARGE_CLASS = 60  # training images of a class


def any_patient(patient: Patient) -> bool:
    """All patients."""
    return True


def is_color(patient: Patient) -> bool:
    """Patients with images in color; the gray tasks are easy."""
    return patient.is_color


def is_pretrained(patient: Patient) -> bool:
    """Healthy patients whose model starts from pretrained weights."""
    return patient.surgery is not Patient.surgery


def has_large_split(patient: Patient) -> bool:
    """Patients with many training images of each class."""
    return len(patient.splits.train) > LARGE_CLASS * patient.splits.classes


def has_hidden_layers(patient: Patient) -> bool:
    """Patients whose network is more than a linear classifier."""
    return patient.net.family != "linear"


def has_batch_norm(patient: Patient) -> bool:
    """Patients whose network has batch norms."""
    return patient.net.norm == "batch"


def has_no_norm(patient: Patient) -> bool:
    """Patients whose network has hidden layers without norms."""
    return has_hidden_layers(patient) and patient.net.norm == "none"


def has_relu(patient: Patient) -> bool:
    """Patients whose network has hidden layers with ReLUs."""
    return has_hidden_layers(patient) and patient.net.act == "relu"
