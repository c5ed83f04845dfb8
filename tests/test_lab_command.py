"""goodfit lab: the list, a lesson in the terminal, as JSON and as a page, and the tracer; wrong words get a sentence."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from goodfit.lab.catalog import NAMES, list_lessons
from tests.support.command import goodfit as command


def test_the_list_loads_no_torch() -> None:
    script = "import sys, goodfit; sys.argv = ['goodfit', 'lab', 'lessons']; from goodfit.cli import main; main()\n"
    script += "assert 'backprop' in goodfit.lab.list_lessons(); print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "False" and "backprop" in done.stdout


def test_the_list_has_each_lesson_with_its_title() -> None:
    said = command("lab", "lessons")
    assert said.code == 0
    lines = said.out.splitlines()
    assert [line.split()[0] for line in lines] == list(NAMES)
    assert all(title.split(":")[0] in line for title, line in zip(list_lessons().values(), lines, strict=True))
    printed = json.loads(command("lab", "lessons", "--json").out)
    assert {row["name"]: row["title"] for row in printed} == list_lessons()


def test_a_lesson_is_printed_and_written(tmp_path: Path) -> None:
    page = tmp_path / "lesson.html"
    said = command("lab", "lessons", "losses", "--html", page)
    assert said.code == 0, said.err
    assert "2.04" in said.out and "Erratum" in said.out and str(page) in said.out.replace("\n", "")
    text = page.read_text(encoding="utf-8")
    assert "<h1>Losses" in text and "Where the slide errs" in text and "5.26667" in text
    content = json.loads(command("lab", "lessons", "losses", "--json").out)
    assert content["name"] == "losses" and {"slide", "numbers", "tables", "charts", "erratum"} <= content.keys()


def test_an_expression_is_traced() -> None:
    words = ["(x + y) * z", "--set", "x=-2", "--set", "y=5", "--set", "z=-4"]
    said = command("lab", "trace", *words)
    assert said.code == 0, said.err
    assert [line.split()[-1] for line in said.out.splitlines()[1:4]] == ["-4", "-4", "3"]
    nodes = {node["name"]: node for node in json.loads(command("lab", "trace", *words, "--json").out)["nodes"]}
    assert nodes["x + y"] == {
        "name": "x + y", "operation": "add", "inputs": ["x", "y"], "shape": [], "value": 3.0, "local": [1.0, 1.0], "received": -4.0,
        "passed": [-4.0, -4.0], "role": "distributes",
    }  # fmt: skip


def test_a_network_is_traced() -> None:
    said = command("lab", "trace", "--model", "mlp((4,))", "--size", "4")
    assert said.code == 0, said.err
    assert "net.layer1.linear.weight" in said.out and "cross_entropy" in said.out and "routes" in said.out


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["lessons", "backdrop"], 'Unknown lesson "backdrop". Did you mean "backprop"?'),
        (["lessons", "--html", "x.html"], "Expected the name of a lesson with --html"),
        (["lessons", "losses", "--html", "."], "received the folder"),
        (["lessons", "losses", "affine"], "Expected no more"),
        (["lesson"], "lessons"),
        (["trace"], "Expected an expression"),
        (["trace", "x", "--model", "linear"], "received both"),
        (["trace", "--model", "linear", "--set", "x=1"], "with an expression only"),
        (["trace", "--model", "liner"], "linear"),
        (["trace", "--model", "linear", "--size", "0"], "size"),
        (["trace", "--model", "torch.nn.Linear(3, 4)"], "does not take images of 3x8x8"),
        (["trace", "x", "--set", "x"], 'received "x"'),
        (["trace", "x", "--set", "x=one"], 'received "x=one"'),
        (["trace", "x", "--set", "x=nan"], 'received "x=nan"'),
        (["trace", "x", "--set", "2=1"], 'received "2=1"'),
        (["trace", "x", "--set", "x=1", "--set", "x=2"], "received it twice"),
        (["trace", "x + y", "--set", "x=1"], "--set y=1"),
        (["trace", "open('/etc/passwd')"], "Unknown function"),
    ],
)
def test_wrong_words_get_a_sentence(words: list[str], says: str) -> None:
    said = command("lab", *words)
    assert said.code == 2 and not said.out, said
    assert says.lower() in said.err.lower() and "Traceback" not in said.err
