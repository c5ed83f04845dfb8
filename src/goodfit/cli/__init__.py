"""The command line: one file per verb; torch is imported inside the verbs, so --help is instant."""

from __future__ import annotations

import os
import sys
import time

import cyclopts
import psutil

from goodfit.cli.faults import fault
from goodfit.core.errors import GoodfitError, Interrupted, UsageError

VERBS = {
    "train": "Train a classifier on images.",
    "show": "Draw what augmentation makes of images.",
    "lr": "Find a learning rate: a range test from the first weights.",
    "search": "Search for the values of a recipe that train best.",
    "steer": "Multiply the learning rate of a training that is running.",
    "evaluate": "Score a run's classifier on its validation images, or once on its test images.",
    "predict": "Say what a run's classifier sees in images.",
    "export": "Write a run's classifier as one ONNX file.",
    "ensemble": "Make one classifier of several runs, or of the snapshots of one.",
    "advise": "Say which stages of a trained net to train on new images, and at what rate.",
    "features": "Write what a stage of a trained net puts out for images to a file.",
    "compare": "Say where runs differ: recipes, scores on the same images, cost.",
    "report": "Write the story of a run or a study as one HTML file.",
    "runs": "List and prune runs.",
    "parts": "List every part there is.",
    "describe": "Account for a network layer by layer, or set several side by side.",
    "gradcheck": "Check gradients against central differences.",
}


def application() -> cyclopts.App:
    """The app with all its verbs, each imported when it is asked for."""
    app = cyclopts.App(
        name="goodfit",
        help="Train image classifiers that fit, and hear why when they do not.",
        version_flags=["--version"],
        help_format="plaintext",
        suppress_keyboard_interrupt=False,  # main says in a sentence what is kept
        default_parameter=cyclopts.Parameter(show_default=worth_showing, negative=""),  # no --no-json, no --empty-use
        console=None,
    )
    for verb, sentence in VERBS.items():
        app.command(f"goodfit.cli.{verb}:{verb}", name=verb, help=sentence)
    return app


def worth_showing(value: object) -> str | None:
    """The default as --help shows it; nothing and no need no words."""
    return str(value) if value not in (None, "", False, [], ()) else None


def main() -> None:
    """Run a command line; every error a person can act on is one sentence on stderr and an exit code."""
    sys.path.append("")  # the user's own packages, for dotted names; last, so that no file of theirs hides a library
    words = [*sys.argv[2:], "--help"] if sys.argv[1:2] == ["help"] else sys.argv[1:]
    try:
        application()(words, exit_on_error=False, print_error=False, result_action="return_value")
    except cyclopts.UnusedCliTokensError as error:
        left = " ".join(error.unused_tokens or ())
        leave(UsageError(f'Expected no more, found "{left}": put a value with spaces in quotes, such as --budget "10 min".'))
    except cyclopts.CycloptsError as error:
        leave(UsageError(f'{" ".join(str(error).split())} "goodfit --help" lists the commands.'))
    except GoodfitError as error:
        leave(error)
    except KeyboardInterrupt:
        leave(Interrupted("Stopped; what was packed or trained so far is kept, and the same command goes on from there."))
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # the reader of our output left; nothing to say
    except Exception as error:
        said = None if os.environ.get("GOODFIT_TRACEBACK") else fault(error)
        if said is None:
            raise
        leave(said)


def leave(error: GoodfitError) -> None:
    """Say the error and exit with its code."""
    print(f"goodfit: {error}", file=sys.stderr)
    sys.exit(error.exit_code)


def started() -> float:
    """The clock time at which this process began: a budget in minutes counts from there."""
    return min(float(psutil.Process().create_time()), time.time())
