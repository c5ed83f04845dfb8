"""What looks at training: probes, telemetry, TensorBoard events and the reporter; none of it changes a bit."""

from __future__ import annotations

import dataclasses
import io
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console
from torch import nn

from goodfit.core.batch import Batch, one_hot
from goodfit.core.chance import Chance
from goodfit.core.contracts import Probe
from goodfit.core.progress import Length, Lengths
from goodfit.core.reporter import SilentReporter
from goodfit.inspection.probes.update_ratio import UpdateRatio
from goodfit.inspection.telemetry import StepView, Telemetry
from goodfit.inspection.tensorboard import EventWriter, named_numbers
from goodfit.losses.softmax import Softmax
from goodfit.terminal.reporter import TerminalReporter, format_evaluation, format_header, format_steps
from goodfit.training.state import Plan, State
from goodfit.training.step import Objective

PLAN = Plan(Softmax(), Lengths(4, 8, Length.read("4 epochs")), lambda batch, chance, t: batch, lambda images: images, lambda t: 1.0)


def state(lr: float = 0.3) -> State:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(12, 6), nn.BatchNorm1d(6), nn.Dropout(0.3), nn.Linear(6, 3))
    return State.start(model, torch.optim.SGD(model.parameters(), lr=lr))


def steps(given: State, n: int, watch: Telemetry) -> list[dict[str, Any]]:
    rows = []
    for _ in range(n):
        generator = torch.Generator().manual_seed(given.step)
        images = torch.randn(8, 3, 2, 2, generator=generator)
        batch = Batch(images, one_hot(torch.randint(0, 3, (8,), generator=generator), 3), torch.arange(8))
        objective = Objective(given, batch.but(chance=Chance.of(0, torch.arange(8))), PLAN, 0.0)
        with watch.during(given, objective) as seen:
            given.optimizer.step(objective)  # type: ignore[arg-type]
        given.step += 1
        rows.append(seen)
    return rows


# ---- probes and telemetry ---------------------------------------------------------------------------------------------------------


def test_update_ratio_by_hand() -> None:
    """The step of plain SGD is lr times the gradient: its norm over the norm of the weights before it."""
    given = state()
    before = {name: p.detach().double().clone() for name, p in given.model.named_parameters()}
    (seen,) = steps(given, 1, Telemetry((UpdateRatio(1),)))
    gradients = {name: p.grad.double() for name, p in given.model.named_parameters() if p.grad is not None}
    expected = {name: 0.3 * gradients[name].norm() / before[name].norm() for name in ("1.weight", "4.weight")}
    assert set(seen["update_ratio"]) == set(expected), "weights only: no biases, no batch norm"
    for name, ratio in seen["update_ratio"].items():
        assert float(ratio) == pytest.approx(float(expected[name]), rel=1e-5)


def test_update_ratio_of_weights_that_start_at_zero_is_finite() -> None:
    given = state()
    nn.init.zeros_(given.model[4].weight)  # type: ignore[index, arg-type]
    (seen,) = steps(given, 1, Telemetry((UpdateRatio(1),)))
    assert all(bool(torch.isfinite(x)) for x in seen["update_ratio"].values())


@pytest.mark.parametrize("every", [1, 3, 5])
def test_a_probe_looks_every_so_many_steps(every: int) -> None:
    rows = steps(state(), 11, Telemetry((UpdateRatio(every),)))
    assert [n for n, row in enumerate(rows) if row] == list(range(0, 11, every))


def test_looking_changes_nothing() -> None:
    weights = []
    for probes in ((), (UpdateRatio(1),), (UpdateRatio(2), UpdateRatio(3))):
        given = state()
        steps(given, 6, Telemetry(probes))
        weights.append({**given.model.state_dict()})
    for other in weights[1:]:
        assert all(torch.equal(x, other[name]) for name, x in weights[0].items())


def test_a_probe_sees_before_and_after_and_the_outcome() -> None:
    views: list[StepView] = []

    @dataclasses.dataclass(frozen=True)
    class Looking(Probe):
        """Keeps what it is shown."""

        every: int = 1

        def before(self, state: State) -> Any:
            return state.step, state.model[1].weight.detach().clone()  # type: ignore[index]

        def read(self, view: StepView) -> dict[str, Any]:
            views.append(view)
            return {"looked": len(views)}

    given = state()
    rows = steps(given, 2, Telemetry((Looking(), UpdateRatio(2))))
    assert [set(row) for row in rows] == [{"looked", "update_ratio"}, {"looked"}]
    assert [view.before[0] for view in views] == [0, 1]
    assert not torch.equal(views[1].before[1], given.model[1].weight)  # type: ignore[index]
    assert [len(view.outcome.losses) for view in views] == [8, 8]
    assert views[0].state is given


# ---- TensorBoard ------------------------------------------------------------------------------------------------------------------

TRAIN = {
    "kind": "train",
    "step": 3,
    "t": 0.1,
    "lr": 0.25,
    "loss": 1.5,
    "accuracy": 0.5,
    "grad_norm": None,
    "update_ratio": {"1.weight": 0.001},
}
EVALUATE = {
    "kind": "evaluate", "step": 4, "t": 0.5, "elapsed": 62.0, "validation": {"loss": 0.75, "accuracy": 0.875, "balanced_accuracy": 0.8},
    "clean_train": {"loss": 0.5, "accuracy": 0.9375},
}  # fmt: skip
EVENT = {"kind": "event", "step": 4, "text": "Memory ran out [bold]really[/bold]"}


def test_tensorboard_reads_the_events(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventWriter(tmp_path)
    events([TRAIN, {**TRAIN, "step": 4, "loss": 1.25}])
    events([EVALUATE, EVENT])
    read = EventAccumulator(str(tmp_path))
    read.Reload()
    found = {tag: [(x.step, x.value) for x in read.Scalars(tag)] for tag in read.Tags()["scalars"]}
    assert found["train/loss"] == [(3, 1.5), (4, 1.25)]
    assert found["train/lr"] == [(3, 0.25), (4, 0.25)]
    assert found["val/acc1"] == [(4, 0.875)]
    assert found["val/loss"] == [(4, 0.75)]
    assert found["clean_train/acc1"] == [(4, 0.9375)]
    assert found["train/update_ratio/1.weight"][0] == (3, pytest.approx(0.001))
    assert "train/grad_norm" not in found, "what is not finite is left out"


def test_event_names() -> None:
    names = dict(named_numbers(TRAIN, "train"))
    assert set(names) == {"train/t", "train/lr", "train/loss", "train/acc1", "train/update_ratio/1.weight"}
    assert named_numbers(EVENT, "") == []


# ---- the reporter --------------------------------------------------------------------------------------------------------------------


def test_an_evaluation_is_a_line() -> None:
    columns, line = format_header(EVALUATE)[1], format_evaluation(EVALUATE)
    assert line == " 50 %       4  1 min 2 s       0.500   93.8 %       0.750   87.5 %"
    assert [columns[:k].split()[-1] for k in (13, 24, 36, 45, 57, 66)] == ["step", "time", "loss", "accuracy", "loss", "accuracy"]
    assert line[:13].endswith("4") and line[:24].endswith("2 s") and line[:45].endswith("93.8 %") and line[:66].endswith("87.5 %")
    assert format_evaluation({**EVALUATE, "best": True}) == f"{line}  best so far"
    assert len(f"{line}  best so far") < 80


@pytest.mark.parametrize(
    ("validation", "said"),
    [({"loss": None, "accuracy": 0.1}, "  not finite   10.0 %"), ({"loss": None, "accuracy": None}, "  not finite        -")],
)
def test_an_evaluation_that_is_not_finite_is_said_too(validation: dict[str, Any], said: str) -> None:
    assert format_evaluation({**EVALUATE, "validation": validation}).endswith(said)


def test_steps_are_a_line() -> None:
    rows = [{"images_per_s": 1000.0, "loss": 1.0}, {"images_per_s": 3000.0, "loss": 2.0}, {"images_per_s": 2000.0, "loss": None}]
    assert format_steps(rows) == "2,000 images/s  loss 1.500"
    assert format_steps(rows[2:]) == "2,000 images/s  loss not finite"


@pytest.fixture
def terminal() -> TerminalReporter:
    made = TerminalReporter()
    made.console = Console(file=io.StringIO(), highlight=False, soft_wrap=True, force_terminal=False)
    return made


def heard(terminal: TerminalReporter) -> str:
    assert isinstance(terminal.console.file, io.StringIO)
    return terminal.console.file.getvalue()


def test_away_from_a_terminal_there_are_lines_and_no_bar(terminal: TerminalReporter) -> None:
    terminal.live = False
    terminal.show_packing(1, 10)
    terminal.show_rows([{**TRAIN, "images_per_s": 10.0}, EVALUATE, EVENT])
    terminal.say("a [red]b[/red] " + "long " * 60)
    lines = heard(terminal).splitlines()
    assert lines == [*format_header(EVALUATE), format_evaluation(EVALUATE), EVENT["text"], "a [red]b[/red] " + "long " * 60], (
        "as it is: no markup, no wrapping"
    )
    assert terminal.bar is None


def test_at_a_terminal_there_is_a_bar_until_it_is_cleared(terminal: TerminalReporter) -> None:
    terminal.live = True
    terminal.show_packing(3, 10)
    assert terminal.bar is not None
    terminal.show_packing(10, 10)
    assert terminal.bar is None
    terminal.show_rows([{**TRAIN, "images_per_s": 1234.0, "t": 0.25}])
    (task,) = terminal.bar.tasks
    assert (task.completed, task.fields["text"]) == (0.25, "1,234 images/s  loss 1.500")
    terminal.clear_progress()
    terminal.clear_progress()
    assert terminal.bar is None


def test_silence(capfd: pytest.CaptureFixture[str]) -> None:
    reporter = SilentReporter()
    reporter.say("x")
    reporter.show_packing(1, 2)
    reporter.show_rows([EVALUATE])
    reporter.clear_progress()
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("no_color", [True, False])
def test_no_color_is_heeded_and_stdout_is_left_alone(no_color: bool) -> None:
    environment = {**os.environ, "FORCE_COLOR": "1", "TERM": "xterm-256color"}
    environment.pop("NO_COLOR", None)
    environment |= {"NO_COLOR": "1"} if no_color else {}
    code = (
        "from goodfit.terminal.reporter import TerminalReporter as T; v = T(); v.live = True; v.say('hello'); v.updated = -9;"
        "v.show_packing(1, 2); v.show_packing(2, 2); v.say('done')"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment)
    assert done.stdout == ""
    assert "hello" in done.stderr
    assert "done" in done.stderr
    assert ("\x1b[38" in done.stderr or "\x1b[3" in done.stderr) is not no_color
