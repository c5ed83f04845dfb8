"""What a model is made of and what it costs, as text: tables of layers or stages, models side by side, and both as CSV."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from goodfit.core.escapes import format_csv
from goodfit.core.words import count_of, format_bytes, format_percent
from goodfit.models.anatomy.account import BYTES_PER_FLOAT32, Account, LayerRow, compare_accounts
from goodfit.models.anatomy.meta import OUTSIDE
from goodfit.terminal.tables import format_table

LAYER_HEADER = ("layer", "type", "output", "parameters", "share", "multiply-adds", "ops", "activations", "kept", "field", "stride")
CSV_HEADER = ("stage", "layer", "type", "output", "parameters", "multiply_adds", "ops", "activations", "kept_bytes", "field", "stride")
COMPARISON_HEADER = ("model", "parameters", "conv", "fc", "ops", "conv", "fc", "top-1 error", "top-5 error")


def format_account(account: Account, by_stage: bool = False) -> str:
    """Format an account as a table with one line per layer or per stage, followed by its totals in sentences."""
    totals = account.totals
    outside = account.step_memory.saved_by_module.get(OUTSIDE, 0) if account.step_memory else 0
    pixels = f"{account.batch * account.channels * account.size[0] * account.size[1]:,}"
    lines = [("input", "", _shape((account.channels, *account.size)), "", "", "", "", pixels, _kept(outside), "1", "1")]
    for row in account.stages() if by_stage else account.rows:
        share = format_percent(row.parameters / totals["parameters"]) if row.parameters else ""
        macs, ops, activations = (f"{n:,}" for n in (row.macs, row.ops, row.activations))
        layer = (row.name or "(itself)", row.type, _shape(row.output), f"{row.parameters:,}", share)
        lines.append((*layer, macs, ops, activations, _kept(row.kept), _field(row), _stride(row)))
    macs, ops, activations = (f"{totals[name]:,}" for name in ("macs", "ops", "activations"))
    lines.append(("total", "", "", f"{totals['parameters']:,}", "", macs, ops, activations, _kept(totals["kept"] + outside), "", ""))
    return "\n".join([format_table(lines, "<<>>>>>>>>>", LAYER_HEADER), *describe_totals(account)])


def describe_totals(account: Account) -> list[str]:
    """Describe the totals of an account, and the memory of a training step where it is known, in sentences."""
    t, s, image = account.totals, account.shares, f"{account.channels}x{account.size[0]}x{account.size[1]}"
    sentences = [
        "Kept: bytes held for the backward pass. Field: side of the receptive field in pixels. -: unknown, or the output has no sides.",
        f"For {count_of(account.batch, 'image')} of {image}: {t['ops']:,} operations (multiply-adds and one add per bias).",
        f"Conv layers have {format_percent(s['conv_parameters'])} of the parameters and {format_percent(s['conv_ops'])} of the operations,"
        f" fully connected ones {format_percent(s['fc_parameters'])} and {format_percent(s['fc_ops'])}.",
        f"Activations in float32: {format_bytes(t['activation_bytes'])} if every layer keeps its output; {t['in_place']:,} numbers"
        f" ({format_bytes(BYTES_PER_FLOAT32 * t['in_place'])}) with the input, if activations and sums work in place.",
    ]
    if account.step_memory is not None:
        step = account.step_memory
        sentences.append(
            f"A training step of {count_of(step.batch, 'image')} with {step.optimizer} takes {format_bytes(step.peak)}:"
            f" weights {format_bytes(step.weights)}, gradients {format_bytes(step.gradients)}, optimizer {format_bytes(step.state)},"
            f" activations {format_bytes(step.activations)}, workspace {format_bytes(step.workspace)}."
        )
    return sentences


def format_account_csv(account: Account, by_stage: bool = False) -> str:
    """Format the rows of an account as CSV: plain numbers, sides joined by x, and an empty cell for what is not known."""
    lines: list[Sequence[object]] = [CSV_HEADER]
    for r in account.stages() if by_stage else account.rows:
        field, stride = _field(r).strip("-"), _stride(r).strip("-")
        lines.append((r.stage, r.name, r.type, _shape(r.output), r.parameters, r.macs, r.ops, r.activations, r.kept, field, stride))
    return format_csv(lines)


def format_model_comparison(
    accounts: Mapping[str, Account], errors: Mapping[str, tuple[float, float]], speeds: Mapping[str, float] | None = None
) -> str:
    """Format models side by side, as in the lecture's table: parameters, operations, the shares of conv and fully connected layers in
    both, published errors, and images a second where those were measured.
    """
    lines = []
    for name, account in accounts.items():
        t, s = account.totals, {key: format_percent(share) for key, share in account.shares.items()}
        published = [f"{x:.2f} %" for x in errors.get(name, ())] or ["-", "-"]
        counts = (_millions(t["parameters"]), s["conv_parameters"], s["fc_parameters"], _millions(t["ops"]), s["conv_ops"], s["fc_ops"])
        lines.append((name, *counts, *published, *([f"{speeds[name]:,.1f}"] if speeds else [])))
    more = ("images/s",) if speeds else ()
    return format_table(lines, "<>>>>>>>>" + ">" * len(more), (*COMPARISON_HEADER, *more))


def format_model_comparison_csv(
    accounts: Mapping[str, Account], errors: Mapping[str, tuple[float, float]], speeds: Mapping[str, float] | None = None
) -> str:
    """Format the same comparison as CSV, with shares from 0 to 1; models without published errors have empty cells."""
    rows = compare_accounts(accounts, errors, speeds)
    names = [*max(rows, key=len)]
    return format_csv([names, *([row.get(name, "") for name in names] for row in rows)])


def _shape(sides: Sequence[int]) -> str:
    return "x".join(map(str, sides))


def _pair(sides: tuple[int, int]) -> str:
    return str(sides[0]) if sides[0] == sides[1] else _shape(sides)


def _field(row: LayerRow) -> str:
    return _pair(row.field) if row.field != (0, 0) else "-"


def _stride(row: LayerRow) -> str:
    return _pair(row.stride) if row.stride else "-"


def _kept(n: int) -> str:
    return format_bytes(n) if n else ""


def _millions(n: int) -> str:
    return f"{n / 1e6:,.2f} M"
