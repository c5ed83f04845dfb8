"""The audit of a data set: all checks in one pass, its findings kept by the content of the images and the splits."""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from goodfit.core.cached import read_cached_json, write_cached_json
from goodfit.core.files import cache_folder
from goodfit.core.reporter import Reporter
from goodfit.data.dataset import Dataset
from goodfit.data.store import hash_fields
from goodfit.doctor.audit.data_finding import DataFinding, sort_findings
from goodfit.doctor.audit.features import reduce_pixels
from goodfit.doctor.audit.image_checks import find_blank, find_broken, find_copies, find_leaks, find_sizes, find_split_groups
from goodfit.doctor.audit.image_table import ImageTable, open_table
from goodfit.doctor.audit.label_checks import find_class_order, find_counts, find_label_noise, find_label_shift
from goodfit.doctor.audit.near_duplicates import find_exact_duplicates, find_near_duplicates
from goodfit.doctor.audit.run_checks import check_run, check_transforms
from goodfit.doctor.audit.split_checks import find_shift, find_shortcuts
from goodfit.recipe.recipe import Recipe

RECIPE_FILE = "recipe.toml"
VERSION = "2"  # raise it when a check changes, so that findings made before are not used


@dataclasses.dataclass(frozen=True)
class Audit:
    """The findings on a data set, the worst first, by `quick` or all checks; `images` were looked at, in `seconds`."""

    data: str
    images: int
    is_quick: bool
    seconds: float
    findings: tuple[DataFinding, ...]

    def plain(self) -> dict[str, Any]:
        """The audit as JSON has it."""
        content: dict[str, Any] = json.loads(json.dumps(dataclasses.asdict(self), default=_to_plain))
        return content


def audit_table(table: ImageTable, reporter: Reporter, is_quick: bool = False) -> Audit:
    """Run the checks on a table of images; the `quick` ones leave out what compares images with each other one by one."""
    started = time.perf_counter()
    reporter.show_activity(f"auditing {len(table):,} images")
    findings = [*find_broken(table), *find_blank(table), *find_counts(table), *find_sizes(table)]
    features = reduce_pixels(table.images)
    reporter.show_activity("looking for duplicates")
    duplicates = (find_exact_duplicates if is_quick else find_near_duplicates)(table.images)
    findings += [*find_copies(table, duplicates), *find_leaks(table, duplicates)]
    reporter.show_activity("comparing labels with images")
    shifted = find_label_shift(table, features)
    findings += shifted or find_class_order(table, features)  # labels of other rows show no order
    if not is_quick:
        findings += find_label_noise(table, features)
        reporter.show_activity("comparing the splits")
        findings += [*find_shift(table), *find_shortcuts(table)]
        findings += find_split_groups(table, features)
    name = table.data.name if table.data is not None else ""
    return Audit(name, len(table), is_quick, time.perf_counter() - started, tuple(sort_findings(findings)))


def audit_recipe(recipe: Recipe, reporter: Reporter, is_quick: bool = False) -> tuple[Audit, ImageTable]:
    """Audit the images of a recipe in its splits, or read what was found before in the same images and splits.

    Raises:
        DataError: there are no images, or they cannot be trained on.
    """
    table = open_table(recipe, reporter)
    assert table.data is not None
    audit = read_audit(table.data, is_quick)
    if audit is None:
        audit = audit_table(table, reporter, is_quick)
        keep_audit(table.data, audit)
    return audit, table


def audit_with_run(audit: Audit, table: ImageTable, run: Path, recipe: Recipe, reporter: Reporter) -> Audit:
    """Add to an audit what the predictions of a run, or of a study of folds, and the transforms of its recipe show.

    Raises:
        UsageError: the run has no predictions, or they are for other images.
    """
    findings = [*audit.findings, *check_run(table, audit.findings, run)]
    if (run / RECIPE_FILE).is_file():
        findings += check_transforms(recipe, reporter)
    return dataclasses.replace(audit, findings=tuple(sort_findings(findings)))


# ---- kept by content -----------------------------------------------------------------------------------------------------------------


def audit_path(data: Dataset, is_quick: bool) -> Path:
    """Where the audit of a data set is kept: its name hashes the content, names, labels and splits of all images, broken ones, too."""
    key = hash_fields(VERSION, data.digest, data.splits.digest, json.dumps(sorted(data.broken)))
    return cache_folder() / "audits" / f"{key}-{'quick' if is_quick else 'full'}.json"


def read_audit(data: Dataset, is_quick: bool) -> Audit | None:
    """The audit that was kept of a data set; None if there is none."""
    content = read_cached_json(audit_path(data, is_quick))
    if content is None:
        return None
    return Audit(**{**content, "findings": tuple(_read_finding(finding) for finding in content["findings"])})


def keep_audit(data: Dataset, audit: Audit) -> None:
    """Keep the audit of a data set in the cache folder."""
    write_cached_json(audit_path(data, audit.is_quick), audit.plain())


def _read_finding(content: Mapping[str, Any]) -> DataFinding:
    groups = tuple(tuple(group) for group in content["groups"])
    return DataFinding(**{**content, "groups": groups, "captions": tuple(content["captions"])})


def _to_plain(value: object) -> Any:
    if isinstance(value, np.generic):
        return value.item()
    raise TypeError(f"{value!r} is no number")
