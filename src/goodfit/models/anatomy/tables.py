"""Accounts as text: a table of layers or stages, the same as CSV, and models side by side."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Mapping, Sequence

from goodfit.core.words import count_of, format_percent
from goodfit.core.words import format_bytes as bytes_said
from goodfit.models.anatomy.account import BYTES, Account, Row
from goodfit.models.anatomy.meta import OUTSIDE

SAID = 2  # columns at the left that are words; the others are set to the right
LAYERS = ("layer", "type", "output", "parameters", "share", "multiply-adds", "ops", "activations", "kept", "field", "stride")
COLUMNS = ("stage", "layer", "type", "output", "parameters", "multiply_adds", "ops", "activations", "kept_bytes", "field", "stride")
COMPARED = ("model", "parameters", "conv", "fc", "ops", "conv", "fc", "top-1 error", "top-5 error")


def table(account: Account, by_stage: bool = False) -> str:
    """The account as aligned text: a line a layer, or a stage, the totals, and what training takes."""
    totals = account.totals
    outside = account.training.saved.get(OUTSIDE, 0) if account.training else 0
    pixels = f"{account.batch * account.channels * account.size[0] * account.size[1]:,}"
    lines: list[Sequence[str]] = [
        LAYERS,
        ("input", "", _shape((account.channels, *account.size)), "", "", "", "", pixels, _kept(outside), "1", "1"),
    ]
    for row in account.stages() if by_stage else account.rows:
        share = format_percent(row.parameters / totals["parameters"]) if row.parameters else ""
        numbers = [f"{n:,}" if n else "0" for n in (row.macs, row.ops, row.activations)]
        words = (row.name or "(itself)", row.type, _shape(row.output), f"{row.parameters:,}", share)
        lines.append((*words, *numbers, _kept(row.kept), _field(row), _stride(row)))
    sums = [f"{totals[name]:,}" for name in ("macs", "ops", "activations")]
    lines.append(("total", "", "", f"{totals['parameters']:,}", "", *sums, _kept(totals["kept"] + outside), "", ""))
    return "\n".join([aligned(lines), *sentences(account)])


def sentences(account: Account) -> list[str]:
    """What the totals come to, in words."""
    t, s, image = account.totals, account.shares, f"{account.channels}x{account.size[0]}x{account.size[1]}"
    said = [
        "Kept: what waits for the backward pass. Field: the pixels that an output depends on, a side. -: not known, or no sides left.",
        f"For {count_of(account.batch, 'image')} of {image}: {t['ops']:,} operations (multiply-adds and one add per bias).",
        f"Conv layers have {format_percent(s['conv_parameters'])} of the parameters and {format_percent(s['conv_ops'])} of the operations, fully"
        f" connected ones {format_percent(s['fc_parameters'])} and {format_percent(s['fc_ops'])}.",
        f"Activations in float32: {bytes_said(t['activation_bytes'])} where every layer keeps what it puts out;"
        f" {t['in_place']:,} numbers ({bytes_said(BYTES * t['in_place'])}) with the input, where activations and sums work in place.",
    ]
    if account.training is not None:
        step = account.training
        said.append(
            f"A training step of {count_of(step.batch, 'image')} with {step.optimizer} takes {bytes_said(step.peak)}:"
            f" weights {bytes_said(step.weights)}, gradients {bytes_said(step.gradients)}, optimizer {bytes_said(step.state)},"
            f" activations {bytes_said(step.activations)}, workspace {bytes_said(step.workspace)}."
        )
    return said


def as_csv(account: Account, by_stage: bool = False) -> str:
    """The rows as CSV, numbers plain; sides with x between them, nothing where something is not known."""
    lines: list[Iterable[object]] = [COLUMNS]
    for r in account.stages() if by_stage else account.rows:
        seen = _field(r).strip("-"), _stride(r).strip("-")
        lines.append((r.stage, r.name, r.type, _shape(r.output), r.parameters, r.macs, r.ops, r.activations, r.kept, *seen))
    return _csv(lines)


def compared(accounts: Mapping[str, Account], errors: Mapping[str, tuple[float, float]]) -> list[dict[str, object]]:
    """An entry for each model: parameters and ops with the shares of conv and fully connected layers, and published errors in percent."""
    return [
        {
            "model": name,
            **{key: made.totals[key] for key in ("parameters", "macs", "ops")},
            **made.shares,
            **dict(zip(("top1_error", "top5_error"), errors.get(name, ()), strict=False)),
        }
        for name, made in accounts.items()
    ]


def compare(accounts: Mapping[str, Account], errors: Mapping[str, tuple[float, float]]) -> str:
    """Models side by side, as in the lecture's table: parameters and operations, and what share conv and fc layers have in them."""
    lines: list[Sequence[str]] = [COMPARED]
    for name, made in accounts.items():
        t, s = made.totals, {key: format_percent(share) for key, share in made.shares.items()}
        wrong = [f"{x:.2f} %" for x in errors.get(name, ())] or ["-", "-"]
        counts = (_millions(t["parameters"]), s["conv_parameters"], s["fc_parameters"], _millions(t["ops"]), s["conv_ops"], s["fc_ops"])
        lines.append((name, *counts, *wrong))
    return aligned(lines, said=1)


def compare_csv(accounts: Mapping[str, Account], errors: Mapping[str, tuple[float, float]]) -> str:
    """The same as CSV, with shares as numbers; no error where none was published."""
    rows = compared(accounts, errors)
    names = [*max(rows, key=len)]
    return _csv([names, *([row.get(name, "") for name in names] for row in rows)])


def aligned(lines: Sequence[Sequence[str]], said: int = SAID) -> str:
    """Lines of words in columns, the first `said` set to the left."""
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join(
        "  ".join(word.ljust(n) if i < said else word.rjust(n) for i, (word, n) in enumerate(zip(line, widths, strict=True))).rstrip()
        for line in lines
    )


def _csv(lines: Iterable[Iterable[object]]) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(lines)
    return text.getvalue().rstrip("\n")


def _shape(sides: Sequence[int]) -> str:
    return "x".join(map(str, sides))


def _pair(sides: tuple[int, int]) -> str:
    return str(sides[0]) if sides[0] == sides[1] else _shape(sides)


def _field(row: Row) -> str:
    return _pair(row.field) if row.field != (0, 0) else "-"


def _stride(row: Row) -> str:
    return _pair(row.stride) if row.stride else "-"


def _kept(n: int) -> str:
    return bytes_said(n) if n else ""


def _millions(n: int) -> str:
    return f"{n / 1e6:,.2f} M"
