"""A page that shows a server's interface and tries it, with nothing loaded from elsewhere."""

from __future__ import annotations

import json
from html import escape
from typing import Any

CONTENT_SECURITY_POLICY = (
    "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; connect-src 'self'; img-src blob:; base-uri 'none';"
    " form-action 'none'; frame-ancestors 'none'"
)
STYLE = (
    "body{font:16px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem}"
    "pre{background:#f3f3f3;color:#111;padding:.8rem;overflow:auto;white-space:pre-wrap}code{font-size:.95em}"
    "h2{margin-top:2rem}img{max-height:8rem;margin:.3rem}input{margin:.3rem 0}"
)
SCRIPT = """
const form = document.getElementById("try"), out = document.getElementById("answer"), shown = document.getElementById("shown");
form.addEventListener("submit", async (event) => {
  event.preventDefault();
  const body = new FormData(), token = form.token ? form.token.value : "";
  shown.replaceChildren();
  for (const file of form.images.files) {
    body.append("image", file, file.name);
    const image = document.createElement("img");
    image.src = URL.createObjectURL(file);
    image.alt = file.name;
    shown.append(image);
  }
  out.textContent = "...";
  try {
    const answer = await fetch("/predict", {method: "POST", body, headers: token ? {Authorization: "Bearer " + token} : {}});
    out.textContent = answer.status + "\\n" + JSON.stringify(await answer.json(), null, 2);
  } catch (error) {
    out.textContent = String(error);
  }
});
"""
TOKEN_FIELD = '<label>Token <input name="token" type="password" autocomplete="off"></label><br>'


def docs_page(described: dict[str, Any]) -> str:
    """The page, as HTML, of an OpenAPI document."""
    sections = [
        _section(method.upper(), path, operation) for path, methods in described["paths"].items() for method, operation in methods.items()
    ]
    schemas = escape(json.dumps(described["components"]["schemas"], indent=2))
    return f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width"><title>Goodfit</title>
<style>{STYLE}</style></head>
<body><h1>{escape(described["info"]["title"])}</h1><p>{escape(described["info"]["description"])}</p>
<h2>Try it</h2>
<form id="try"><label>Images <input name="images" type="file" accept="image/*" multiple required></label><br>
{TOKEN_FIELD if "security" in described else ""}<button>Predict</button></form>
<div id="shown"></div><pre id="answer" aria-live="polite"></pre>
{"".join(sections)}
<h2>Schemas</h2><pre>{schemas}</pre>
<script>{SCRIPT}</script></body></html>
"""


def _section(method: str, path: str, operation: dict[str, Any]) -> str:
    answers = "".join(
        f"<li><code>{escape(status)}</code> {escape(answer['description'])}</li>" for status, answer in operation["responses"].items()
    )
    more = f"<p>{escape(operation['description'])}</p>" if "description" in operation else ""
    return f"<h2><code>{method} {escape(path)}</code></h2><p>{escape(operation['summary'])}</p>{more}<ul>{answers}</ul>"
