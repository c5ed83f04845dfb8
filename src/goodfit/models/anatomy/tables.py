"""Accounts as text and CSV: a table of layers or stages, models side by side, and what was published of these models."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Mapping, Sequence

from goodfit.core.words import count, percent
from goodfit.core.words import size as bytes_said
from goodfit.models.anatomy.account import BYTES_PER_FLOAT32, Account, LayerRow
from goodfit.models.anatomy.meta import OUTSIDE

TEXT_COLUMNS = 2  # columns aligned to the left; the others hold numbers and are aligned to the right
ACCOUNT_HEADER = ("layer", "type", "output", "parameters", "share", "multiply-adds", "ops", "activations", "kept", "field", "stride")
CSV_HEADER = ("stage", "layer", "type", "output", "parameters", "multiply_adds", "ops", "activations", "kept_bytes", "field", "stride")
COMPARISON_HEADER = ("model", "parameters", "conv", "fc", "ops", "conv", "fc", "top-1 error", "top-5 error")

# Percent of ImageNet's validation images, one crop: top-1 and top-5 error of the PyTorch model zoo in 2017, as CS231n lists them.
PUBLISHED_ERRORS = {
    "alexnet": (43.45, 20.91),
    "vgg(11)": (30.98, 11.37), "vgg(13)": (30.07, 10.75), "vgg(16)": (28.41, 9.62), "vgg(19)": (27.62, 9.12),
    "vgg(11, norm=batch)": (29.62, 10.19), "vgg(13, norm=batch)": (28.45, 9.63),
    "vgg(16, norm=batch)": (26.63, 8.50), "vgg(19, norm=batch)": (25.76, 8.15),
    "resnet(18)": (30.24, 10.92), "resnet(34)": (26.70, 8.58), "resnet(50)": (23.85, 7.13), "resnet(101)": (22.63, 6.44),
}  # fmt: skip

# Where the lecture's counts differ from those of the nets that it names, and why.
LECTURE_ERRATA = {
    "vgg(16)": "CS231n says 24M activations, 93 MB: its own rows add up to 15.2M, and with ReLUs that keep their own output 28.8M.",
    "vgg_f": "CS231n says 99M parameters and 762M operations: those of a net whose first fully connected layer sees 6x6x512 numbers,"
    " not the 6x6x256 that conv5 puts out.",
    "nin": "CS231n says 1168M operations: neither images of 224 pixels nor of 227 give that, but 1102M and 1108M.",
    **dict.fromkeys(
        ("googlenet(norm=none, kernel=5)", "googlenet(aux=0, norm=none, kernel=5)"),
        "CS231n says 6.9M parameters and 1566M operations: within 1.5 % of this net without its auxiliary heads.",
    ),
}


def format_account(account: Account, by_stage: bool = False) -> str:
    """Format an account as an aligned table with a line per layer or stage, the totals, and sentences about them."""
    totals = account.totals
    outside = account.step_memory.saved_by_module.get(OUTSIDE, 0) if account.step_memory else 0
    pixels = f"{account.batch * account.channels * account.size[0] * account.size[1]:,}"
    lines: list[Sequence[str]] = [
        ACCOUNT_HEADER,
        ("input", "", _format_shape((account.channels, *account.size)), "", "", "", "", pixels, _format_kept(outside), "1", "1"),
    ]
    for row in account.stages() if by_stage else account.rows:
        share = percent(row.parameters / totals["parameters"]) if row.parameters else ""
        numbers = [f"{n:,}" if n else "0" for n in (row.macs, row.ops, row.activations)]
        words = (row.name or "(itself)", row.type, _format_shape(row.output), f"{row.parameters:,}", share)
        lines.append((*words, *numbers, _format_kept(row.kept), _format_field(row), _format_stride(row)))
    sums = [f"{totals[name]:,}" for name in ("macs", "ops", "activations")]
    lines.append(("total", "", "", f"{totals['parameters']:,}", "", *sums, _format_kept(totals["kept"] + outside), "", ""))
    return "\n".join([align_columns(lines), *summary_lines(account)])


def summary_lines(account: Account) -> list[str]:
    """Describe the totals of an account in sentences."""
    t, s, image = account.totals, account.shares, f"{account.channels}x{account.size[0]}x{account.size[1]}"
    lines = [
        "Kept: stored for the backward pass. Field: how many pixels a side an output depends on. -: unknown, or no sides left.",
        f"For {count(account.batch, 'image')} of {image}: {t['ops']:,} operations (multiply-adds and one add per bias).",
        f"Conv layers have {percent(s['conv_parameters'])} of the parameters and {percent(s['conv_ops'])} of the operations, fully"
        f" connected ones {percent(s['fc_parameters'])} and {percent(s['fc_ops'])}.",
        f"Activations in float32: {bytes_said(t['activation_bytes'])} if every layer keeps its output; {t['in_place']:,} numbers"
        f" ({bytes_said(BYTES_PER_FLOAT32 * t['in_place'])}) with the input, if activations and sums work in place.",
    ]
    if account.step_memory is not None:
        step = account.step_memory
        lines.append(
            f"A training step of {count(step.batch, 'image')} with {step.optimizer} takes {bytes_said(step.peak)}:"
            f" weights {bytes_said(step.weights)}, gradients {bytes_said(step.gradients)}, optimizer {bytes_said(step.state)},"
            f" activations {bytes_said(step.activations)}, workspace {bytes_said(step.workspace)}."
        )
    return lines


def account_to_csv(account: Account, by_stage: bool = False) -> str:
    """Format the rows as CSV: plain numbers, sides joined by x, and an empty cell for what is unknown."""
    lines: list[Iterable[object]] = [CSV_HEADER]
    for r in account.stages() if by_stage else account.rows:
        receptive = _format_field(r).strip("-"), _format_stride(r).strip("-")
        lines.append((r.stage, r.name, r.type, _format_shape(r.output), r.parameters, r.macs, r.ops, r.activations, r.kept, *receptive))
    return _to_csv(lines)


def comparison_rows(accounts: Mapping[str, Account], errors: Mapping[str, tuple[float, float]]) -> list[dict[str, object]]:
    """A row for each model: parameters and ops, the shares of conv and fully connected layers, and the published errors in percent."""
    return [
        {
            "model": name,
            **{key: account.totals[key] for key in ("parameters", "macs", "ops")},
            **account.shares,
            **dict(zip(("top1_error", "top5_error"), errors.get(name, ()), strict=False)),
        }
        for name, account in accounts.items()
    ]


def format_comparison(accounts: Mapping[str, Account], errors: Mapping[str, tuple[float, float]]) -> str:
    """Format models side by side, as in the lecture's table: parameters and operations, and the shares of conv and fc layers in them."""
    lines: list[Sequence[str]] = [COMPARISON_HEADER]
    for name, account in accounts.items():
        t, s = account.totals, {key: percent(share) for key, share in account.shares.items()}
        top_errors = [f"{x:.2f} %" for x in errors.get(name, ())] or ["-", "-"]
        counts = (
            _format_millions(t["parameters"]),
            s["conv_parameters"],
            s["fc_parameters"],
            _format_millions(t["ops"]),
            s["conv_ops"],
            s["fc_ops"],
        )
        lines.append((name, *counts, *top_errors))
    return align_columns(lines, text_columns=1)


def comparison_to_csv(accounts: Mapping[str, Account], errors: Mapping[str, tuple[float, float]]) -> str:
    """Format the comparison as CSV, with shares as numbers, and an empty cell where no error was published."""
    rows = comparison_rows(accounts, errors)
    names = [*max(rows, key=len)]
    return _to_csv([names, *([row.get(name, "") for name in names] for row in rows)])


def align_columns(lines: Sequence[Sequence[str]], text_columns: int = TEXT_COLUMNS) -> str:
    """Align lines of cells in columns: the first `text_columns` to the left, the others to the right."""
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join(
        "  ".join(
            word.ljust(n) if i < text_columns else word.rjust(n) for i, (word, n) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in lines
    )


def _to_csv(lines: Iterable[Iterable[object]]) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(lines)
    return text.getvalue().rstrip("\n")


def _format_shape(sides: Sequence[int]) -> str:
    return "x".join(map(str, sides))


def _format_sides(sides: tuple[int, int]) -> str:
    return str(sides[0]) if sides[0] == sides[1] else _format_shape(sides)


def _format_field(row: LayerRow) -> str:
    return _format_sides(row.field) if row.field != (0, 0) else "-"


def _format_stride(row: LayerRow) -> str:
    return _format_sides(row.stride) if row.stride else "-"


def _format_kept(n: int) -> str:
    return bytes_said(n) if n else ""


def _format_millions(n: int) -> str:
    return f"{n / 1e6:,.2f} M"
