"""What goes wrong on the way (a full disk, Ctrl-C while packing, damaged or vanished files): said in a sentence, and nothing is lost."""

from __future__ import annotations

import errno
import html
import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from goodfit.core import files
from goodfit.core.errors import GoodfitError
from goodfit.core.run import Run
from goodfit.data import blob, pack
from tests.support.command import copied, goodfit, refused, train
from tests.support.photos import make_photos

_prepare_piece = pack._prepare_piece


@pytest.fixture
def fresh_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache with nothing packed."""
    monkeypatch.setenv("GOODFIT_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture(scope="module")
def finished(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "finished"
    assert train(photos, out).code == 0
    return out


def same_weights(one: Path, other: Path) -> bool:
    a, b = load_file(one / "model.safetensors"), load_file(other / "model.safetensors")
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def full(*_: Any) -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


# ---- packing -----------------------------------------------------------------------------------------------------------------------


def test_no_space_seen_before_packing(photos: Path, finished: Path, tmp_path: Path, fresh_cache: Path) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(10, 9, 1))
        refused(train(photos, tmp_path / "run"), 1, "No space is left for the prepared images", "GOODFIT_CACHE")
    assert not (tmp_path / "run").exists()
    assert train(photos, tmp_path / "run").code == 0
    assert same_weights(finished, tmp_path / "run")


def test_no_space_while_packing(photos: Path, finished: Path, tmp_path: Path, fresh_cache: Path) -> None:
    """The disk fills after the first piece: the second try goes on from there."""
    added = []

    def add(self: blob.BlobWriter, *words: Any) -> None:
        if added:
            full()
        added.append(words)
        real(self, *words)

    real = blob.BlobWriter.add
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(blob.BlobWriter, "add", add)
        patch.setattr(pack, "IMAGES_PER_PIECE", (32, 32))
        refused(
            train(photos, tmp_path / "run"),
            1,
            "No space is left to write",
            "run the command again, a training with --resume auto: nothing is lost",
        )
    assert not (tmp_path / "run").exists()
    made: list[range] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pack, "_prepare_piece", lambda *words: made.append(words[-1]) or _prepare_piece(*words))
        assert train(photos, tmp_path / "run").code == 0
    assert min(rows.start for rows in made) == 32, "the first piece was kept"
    assert same_weights(finished, tmp_path / "run")


def test_ctrl_c_while_packing(photos: Path, finished: Path, tmp_path: Path, fresh_cache: Path) -> None:
    """A real SIGINT in the middle: exit 130, and the same command goes on with what is left."""

    def add(self: blob.BlobWriter, *words: Any) -> None:
        real(self, *words)
        os.kill(os.getpid(), signal.SIGINT)

    real = blob.BlobWriter.add
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # what is started in the background ignores it
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(blob.BlobWriter, "add", add)
        patch.setattr(pack, "IMAGES_PER_PIECE", (32, 32))
        refused(train(photos, tmp_path / "run"), 130, "images that were packed so far stay packed")
    signal.signal(signal.SIGINT, before)
    assert not (tmp_path / "run").exists()
    made: list[range] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pack, "_prepare_piece", lambda *words: made.append(words[-1]) or _prepare_piece(*words))
        assert train(photos, tmp_path / "run").code == 0
    assert min(rows.start for rows in made) == 32
    assert same_weights(finished, tmp_path / "run")


# ---- training ----------------------------------------------------------------------------------------------------------------------


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="the open file's name is asked of /proc")
def test_no_space_while_checkpointing(photos: Path, finished: Path, tmp_path: Path) -> None:
    """The second checkpoint does not fit: exit 1, the first is whole, and the run goes on to the weights of one never stopped."""
    fsync = os.fsync

    def sync(handle: int) -> None:
        if f".{name}." in str(Path(f"/proc/self/fd/{handle}").readlink()):
            full()
        fsync(handle)

    steps = len(Run(finished).log("train"))
    name = f"{steps:08d}.safetensors"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(files.os, "fsync", sync)
        refused(
            train(photos, tmp_path / "run"), 1, f'No space is left to write "{tmp_path / "run" / "checkpoints" / name}"', "nothing is lost"
        )
    run = Run(tmp_path / "run")
    assert run.read("about.json")["state"] == "failed"
    assert sorted(p.name for p in run.checkpoints.iterdir()) == [f"{steps // 2:08d}.{kind}" for kind in ("json", "safetensors")]
    said = train(photos, run.path, "--resume", "auto")
    assert said.code == 0, said
    assert f"at step {steps // 2}" in said.err
    assert same_weights(finished, run.path)


def test_no_space_for_the_log(photos: Path, tmp_path: Path) -> None:
    def append(self: Run, lines: list[dict[str, Any]]) -> None:
        with files.explain_write_errors(self.path / "log.jsonl"):
            full()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Run, "append", append)
        refused(train(photos, tmp_path / "run"), 1, "No space is left to write", "log.jsonl")
    assert train(photos, tmp_path / "run", "--resume", "auto").code == 0


def test_an_end_cut_short_is_made_up_for(photos: Path, finished: Path, tmp_path: Path) -> None:
    """Killed after the last step and before the model is written: --resume auto only finishes."""
    run = copied(finished, tmp_path / "run")
    for name in ("model.safetensors", "config.json", "scores.json", "report.html"):
        (run / name).unlink()
    refused(goodfit("evaluate", run), 2, "has no model yet", f'--resume auto --out "{run}"')
    refused(goodfit("predict", run, photos / "red" / "000.png"), 2, "has no model yet")
    assert goodfit("report", run).code == 0, "a report of what there is"
    assert train(photos, run, "--resume", "auto").code == 0
    assert same_weights(finished, run)


def test_every_checkpoint_damaged(photos: Path, finished: Path, tmp_path: Path) -> None:
    run = copied(finished, tmp_path / "run")
    for file in (run / "checkpoints").glob("*.safetensors"):
        file.write_bytes(b"zz")
    refused(train(photos, run, "--resume", "auto", budget="3 epochs"), 1, "No good checkpoint is left", "start the run anew")


def test_a_rate_far_too_high_ends_with_4(photos: Path, tmp_path: Path) -> None:
    refused(train(photos, tmp_path / "run", optimizer="sgd(1e38, momentum=0.9)"), 4, "diverged")
    assert Run(tmp_path / "run").read("about.json")["state"] == "diverged"


def test_a_bug_is_not_hidden(photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only what a person can act on becomes a sentence; the run says that it failed."""
    monkeypatch.setattr("goodfit.runs.train.fit", lambda *words: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        train(photos, tmp_path / "run")
    assert Run(tmp_path / "run").read("about.json")["state"] == "failed"


OWN = """
import dataclasses
from goodfit.core.contracts import Augment, Model
from torch import nn

def halved(batch):
    {fault}
    return batch

@dataclasses.dataclass(frozen=True)
class MyShift(Augment):
    p: float = 1.0

    def __call__(self, batch, chance, t):
        return halved(batch)

class Net(nn.Linear):
    def forward(self, x):
        {fault}
        return super().forward(x.flatten(1))

@dataclasses.dataclass(frozen=True)
class MyNet(Model):
    def __call__(self, classes, channels, size):
        return Net(channels * size[0] * size[1], classes)
"""


@pytest.mark.parametrize(("seat", "text", "part", "line"), [("augment", "flip | my_shift", "my_shift", 7), ("model", "my_net", "Net", 19)])
def test_an_error_in_a_part_of_ones_own_is_said(photos: Path, tmp_path: Path, seat: str, text: str, part: str, line: int) -> None:
    """A sentence with the part, the file and the line; the run says that it failed."""
    mine = tmp_path / "my_parts.py"
    mine.write_text(OWN.format(fault="batch = {'images': 1}['targets']" if seat == "augment" else "assert not self.training"))
    said = train(photos, tmp_path / "run", "--use", mine, **{seat: text})
    kind = "KeyError: 'targets'" if seat == "augment" else "AssertionError."
    refused(said, 1, f'Your part "{part}" failed at "{mine}", line {line}: {kind}', "GOODFIT_TRACEBACK=1")
    assert Run(tmp_path / "run").read("about.json")["state"] == "failed"
    with pytest.MonkeyPatch.context() as patch, pytest.raises((KeyError, AssertionError)):
        patch.setenv("GOODFIT_TRACEBACK", "1")
        train(photos, tmp_path / "again", "--use", mine, **{seat: text})


def test_ctrl_c_in_a_part_of_ones_own_is_no_fault_of_it(photos: Path, tmp_path: Path) -> None:
    mine = tmp_path / "my_parts.py"
    mine.write_text(OWN.format(fault="raise KeyboardInterrupt"))
    refused(train(photos, tmp_path / "run", "--use", mine, augment="my_shift"), 130, "Stopped;")


# ---- afterwards --------------------------------------------------------------------------------------------------------------------


def test_data_changed_or_gone_after_training(tmp_path: Path) -> None:
    data, run = make_photos(tmp_path / "data", each=8), tmp_path / "run"
    assert train(data, run).code == 0
    before = (run / "scores.json").read_bytes()
    shutil.move(data / "red" / "000.png", tmp_path / "kept.png")
    refused(goodfit("evaluate", run), 3, "have changed since", "another --out")
    shutil.copyfile(data / "blue" / "000.png", data / "red" / "000.png")
    refused(goodfit("evaluate", run, "--test"), 3, "have changed since")
    assert Run(run).read("about.json")["openings"] == [], "nothing was opened"
    shutil.move(tmp_path / "kept.png", data / "red" / "000.png")
    assert goodfit("evaluate", run).code == 0, "put back, it is the same again"
    shutil.move(data, tmp_path / "moved")
    refused(goodfit("evaluate", run), 3, f'Expected images at "{data}", found nothing there')
    assert json.loads((run / "scores.json").read_text())["validation"]["accuracy"] == json.loads(before)["validation"]["accuracy"]
    assert goodfit("report", run).code == 0
    assert goodfit("predict", run, tmp_path / "moved" / "red").code == 0


def test_evaluate_test_without_a_test_split(photos: Path, tmp_path: Path) -> None:
    data = tmp_path / "data"
    for split in ("train", "validation"):
        shutil.copytree(photos, data / split)
    assert train(data, tmp_path / "run", limit="6").code == 0
    refused(goodfit("evaluate", tmp_path / "run", "--test"), 2, "has no test images")
    assert Run(tmp_path / "run").read("about.json")["openings"] == []


@pytest.mark.parametrize("file", ["scores.json", "predictions.npz", "report.html"])
def test_scores_that_cannot_be_stored_are_said(finished: Path, tmp_path: Path, file: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a disk that is read-only the scores are measured and printed, and nothing is half written."""
    run = copied(finished, tmp_path / "run")
    expected, before = json.loads(goodfit("evaluate", run, "--json").out), (run / "scores.json").read_bytes()
    writer = files.atomic_writer

    def deny(path: Path) -> Any:
        if path.name == file:
            raise GoodfitError(f'"{path}" cannot be written (Read-only file system); choose another folder.')
        return writer(path)

    monkeypatch.setattr("goodfit.core.files.atomic_writer", deny)
    said = goodfit("evaluate", run, "--json")
    assert (said.code, json.loads(said.out)) == (0, expected)
    what = "report could not be written" if file == "report.html" else "scores could not be stored"
    assert f'Warning: the {what}: "{run / file}" cannot be written (Read-only file system)' in said.err
    assert (run / "scores.json").read_bytes() == before or file != "scores.json"


def test_what_cannot_be_written_into_the_run_is_refused_first(finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """That the test images are opened, and a temperature."""
    run = copied(finished, tmp_path / "run")

    def deny(*words: Any) -> None:
        raise GoodfitError("it cannot be written.")

    with monkeypatch.context() as patch:
        patch.setattr(Run, "update", deny)
        refused(goodfit("evaluate", run, "--test"), 1, "The test images stay closed")
    monkeypatch.setattr(os, "access", lambda *words: False)
    refused(goodfit("evaluate", run, "--calibrate"), 1, "no temperature can be stored")


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"optimizer": "sgd(1e-9)"}, 'better than always answering "blue" (33.3 %).'),
        (
            {"optimizer": "sgd(3000.0, momentum=0.9, weight_decay=0.0005)"},
            "The probabilities of this classifier are of no use: its log loss is ",
        ),
    ],
)
def test_a_useless_classifier_is_called_so(photos: Path, tmp_path: Path, changes: dict[str, str], sentence: str) -> None:
    """At the end of training and in the report; one that is of use is not."""
    said = train(photos, tmp_path / "run", **changes)
    assert said.code == 0 and sentence in said.err, said.err
    assert sentence in html.unescape((tmp_path / "run" / "report.html").read_text()).replace("\xa0", " ")


def test_a_classifier_of_use_is_not_called_useless(photos: Path, tmp_path: Path) -> None:
    said = train(photos, tmp_path / "run")
    assert said.code == 0 and "This classifier is" not in said.err and "of no use" not in said.err, said.err


@pytest.mark.parametrize("verb", ["evaluate", "predict", "report"])
def test_what_is_no_run(finished: Path, photos: Path, verb: str) -> None:
    more = [photos / "red" / "000.png"] if verb == "predict" else []
    what = "the folder of a run, an ensemble, a search or folds" if verb == "report" else "a run folder"
    refused(goodfit(verb, photos, *more), 2, f'Expected {what} at "{photos}", found none.')
    refused(goodfit(verb, finished.parent, *more), 2, f"There is: {finished}.")
    refused(goodfit(verb, finished.parent / "finishd", *more), 2, f"There is: {finished}.")
    refused(goodfit(verb), 2, f"{'FOLDER' if verb == 'report' else 'RUN'} requires an argument")


@pytest.mark.parametrize("verb", ["evaluate", "predict"])
def test_a_damaged_model(finished: Path, photos: Path, tmp_path: Path, verb: str) -> None:
    more = [photos / "red" / "000.png"] if verb == "predict" else []
    for place, (name, content) in enumerate(
        [("model.safetensors", b"zz"), ("config.json", b"{"), ("config.json", b"[1]"), ("model.safetensors", None)]
    ):
        run = copied(finished, tmp_path / f"{place}")
        if content is None:
            (run / name).unlink()
        else:
            (run / name).write_bytes(content)
        refused(goodfit(verb, run, *more), 1, f'"{run / name}" does not read')


def test_a_reader_that_leaves_is_no_error() -> None:
    """`goodfit describe ... | head -1`, whose reader has left before the first word."""
    reader, writer = os.pipe()
    os.close(reader)
    words = [sys.executable, "-m", "goodfit", "describe", "linear"]
    done = subprocess.run(words, stdout=writer, stderr=subprocess.PIPE, text=True, check=False)
    os.close(writer)
    assert (done.returncode, done.stderr) == (0, "")
