"""The command line: one file per verb; torch is imported inside the verbs, so --help is instant."""

from __future__ import annotations

import os
import sys
import time

import cyclopts
import psutil

from goodfit.cli.user_code import explain_user_code_error
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
    "advise": "Say which stages of a trained net to train on new images.",
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
        default_parameter=cyclopts.Parameter(show_default=format_default, negative=""),  # no --no-json, no --empty-use
        console=None,
    )
    for verb, sentence in VERBS.items():
        app.command(f"goodfit.cli.{verb}:{verb}", name=verb, help=sentence)
    return app


def format_default(value: object) -> str | None:
    """The default as --help shows it; empty ones are not shown."""
    return str(value) if value not in (None, "", False, [], ()) else None


def main() -> None:
    """Run a command line; every error a person can act on is one sentence on stderr and an exit code."""
    sys.path.append("")  # the user's own packages, for dotted names; last, so that no file of theirs hides a library
    arguments = [*sys.argv[2:], "--help"] if sys.argv[1:2] == ["help"] else sys.argv[1:]
    try:
        application()(arguments, exit_on_error=False, print_error=False, result_action="return_value")
    except cyclopts.UnusedCliTokensError as error:
        unused = " ".join(error.unused_tokens or ())
        exit_with(UsageError(f'Expected no more, found "{unused}": put a value with spaces in quotes, such as --budget "10 min".'))
    except cyclopts.CycloptsError as error:
        exit_with(UsageError(f'{" ".join(str(error).split())} "goodfit --help" lists the commands.'))
    except GoodfitError as error:
        exit_with(error)
    except KeyboardInterrupt:
        exit_with(Interrupted("Stopped; what was packed or trained so far is kept, and the same command continues from there."))
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # the reader of our output left; nothing to say
    except Exception as error:
        explained = None if os.environ.get("GOODFIT_TRACEBACK") else explain_user_code_error(error)
        if explained is None:
            raise
        exit_with(explained)


def exit_with(error: GoodfitError) -> None:
    """Print the error and exit with its code."""
    print(f"goodfit: {error}", file=sys.stderr)
    sys.exit(error.exit_code)


def process_started() -> float:
    """The clock time at which this process started; a budget in minutes counts from there."""
    return min(float(psutil.Process().create_time()), time.time())
