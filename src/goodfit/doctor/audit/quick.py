"""The short form of the audit that a training begins with: what is alarming, from the cache or where it takes a moment."""

from __future__ import annotations

from goodfit.core.reporter import SilentReporter
from goodfit.data.dataset import Dataset
from goodfit.doctor.audit.audit import audit_table, keep_audit, read_audit
from goodfit.doctor.audit.image_table import make_table

# What the plan of a training does not say already: it names broken files, and classes and files in several splits.
ALARMING = ("blank", "leak", "labels_shifted", "class_order")
# So many images and values of pixels take half a core-second on a busy machine, 1 % of a training of a minute; of more only what an audit
# has kept is said.
MAX_IMAGES, MAX_VALUES = 5000, 20_000_000


def remark_on_data(data: Dataset) -> list[str]:
    """Say what is alarming about the images of a training, in a sentence each."""
    audit = read_audit(data, is_quick=False) or read_audit(data, is_quick=True)
    n, *shape = data.pixels.shape
    if audit is None:
        if n > MAX_IMAGES or n * shape[0] * shape[1] * shape[2] > MAX_VALUES or data.pixels.storage != "raw":
            return []
        audit = audit_table(make_table(data), SilentReporter(), is_quick=True)
        keep_audit(data, audit)
    return [finding.sentence for finding in audit.findings if finding.check in ALARMING and finding.severity != "note"]
