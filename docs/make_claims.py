"""Writes docs/claims.md from what `goodfit lab claims --quick --json` printed: `python -m docs.make_claims`, or `make docs`."""

from __future__ import annotations

import json
import textwrap
from collections import Counter
from pathlib import Path
from typing import Any

from goodfit.core.effects import EFFECT_HEADER, effect_cells
from goodfit.core.words import count_of, format_duration
from goodfit.lab.claim import RULE

HERE = Path(__file__).parent
RESULTS = HERE.parent / "bench" / "results" / "claims.json"
HEAD = """<!-- Made by docs/make_claims.py from bench/results/claims.json: run `make docs`. -->
# What the lectures claim, held to the test

Each claim of the lectures is an experiment on images: a hypothesis, what is measured, and a rule that was written down before it was run
(`src/goodfit/lab/claims/claims.toml`). The verdict is computed, never typed in.

```console
goodfit lab claims
goodfit lab claims S053 --data digits
```

`goodfit lab claims --quick` tries all of them, `--full` on all images, for ten times as many steps and with more seeds. Each experiment
is written down as it ends, in the folder `claims`: kill the command and start it again, and it goes on. The page `claims.html` there has
the curves. From Python:

```python
from pathlib import Path

import goodfit.lab

if __name__ == "__main__":  # as for all programs whose worker processes begin anew
    claim = goodfit.lab.find_claim("S053")
    for finding in goodfit.lab.inquire([claim], ["digits"], goodfit.lab.QUICK, Path("claims"), workers=1):
        print(finding.verdict, finding.judgments[0].interval)
```

"""
TAIL = 'Two claims need no images. "Fails here" says where a sentence stops to be true, not that it is false.'


def claims_page() -> str:
    """The page, with a table for all claims and a section for each."""
    findings: list[dict[str, Any]] = json.loads(RESULTS.read_text(encoding="utf-8"))
    counts = ", ".join(f"{verdict} {count}" for verdict, count in Counter(one["verdict"] for one in findings).most_common())
    seconds = sum(one["seconds"] for one in findings)
    machines = "; ".join(sorted({f"{one['machine']}, {one['date'][:10]}" for one in findings}))
    data = ", ".join(dict.fromkeys(name for one in findings for name in one["data"]))
    text = f"{HEAD}\n{textwrap.fill(RULE, 140)}\n\n{TAIL}\n\n## Verdicts\n\n{findings[0]['extent'].capitalize()}, on {data}: {counts};"
    text += f" {format_duration(seconds)} of one core ({machines}).\n\n| claim | the lecture says | verdict |\n|---|---|---|\n"
    text += "".join(f"| [{one['item']}](#{one['item'].lower()}) | {one['slide']} | {one['verdict']} |\n" for one in findings)
    return text + "".join(map(_format_section, findings))


def _format_section(finding: dict[str, Any]) -> str:
    """What was tried of a claim, and what came of it."""
    text = f"\n## {finding['item']}\n\n{finding['slide']} **{finding['verdict'].capitalize()}.**\n\n{finding['hypothesis']}"
    text += f" Measured: {finding['metric']}. {finding['limits']}\n\n| {' | '.join(EFFECT_HEADER)} |\n|{'---|' * len(EFFECT_HEADER)}\n"
    text += "".join(f"| {' | '.join(effect_cells(effect))} |\n" for effect in finding["effects"])
    return f"{text}\n{count_of(finding['seeds'], 'seed')}, {format_duration(finding['seconds'])} of one core.\n"


if __name__ == "__main__":
    (HERE / "claims.md").write_text(claims_page(), encoding="utf-8")
    print("docs/claims.md")
