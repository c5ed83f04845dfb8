"""The command line: one file per verb; torch is imported inside the verbs, so --help is instant."""

from __future__ import annotations

import os
import re
import sys
import time
from typing import IO, TYPE_CHECKING, NoReturn, cast

if TYPE_CHECKING:
    import cyclopts

    from goodfit.core.errors import GoodfitError
    from goodfit.core.trust import Trust

VERBS = {  # in the order of a person's work
    "train": "Train a classifier on images.",
    "evaluate": "Score a run's classifier on its validation images, or once on its test images.",
    "predict": "Say what a run's classifier sees in images.",
    "report": "Write the story of a run or a study as one HTML file.",
    "runs": "List and prune runs.",
    "board": "Watch runs in a browser, ask their models, play with the lecture.",
    "compare": "Say where runs differ: recipes, scores on the same images, cost.",
    "look": "Draw what a run's network has learned and what its answers rest on.",
    "show": "Draw what augmentation makes of images.",
    "lr": "Find a learning rate: a range test from the first weights.",
    "search": "Search for the values of a recipe that train best.",
    "steer": "Change, pause or end a training that is running.",
    "ensemble": "Make one classifier of several runs, or of the snapshots of one.",
    "advise": "Say which stages of a trained net to train on new images.",
    "features": "Write what a stage of a trained net puts out for images to a file.",
    "export": "Write a run's classifier as a file for other programs.",
    "serve": "Answer predictions of a run's classifier over HTTP.",
    "zoo": "List trained weights to give to others, or add those of a run.",
    "parts": "List every part there is.",
    "describe": "Account for a network layer by layer, or set several side by side.",
    "audit": "Say what is wrong with images and labels before training.",
    "doctor": "Name the cause of a bad training.",
    "gradcheck": "Check gradients against central differences.",
    "lab": "Compute the lecture's worked examples, test its claims, trace a computational graph.",
}
NOUNS = {  # of verbs that have several
    "lab": {
        "lessons": "Compute a worked example of the slides, or list all.",
        "claims": "Hold what the lectures claim to the test, or list it.",
        "trace": "Compute every node of an expression or a network, forward and backward.",
    },
}

QUIET = ("--quiet", "-q")
WITHOUT_TORCH = ("runs", "board", "report", "compare", "steer", "zoo", "parts", "lab")  # which takes seconds to import
EXAMPLES = {
    "train": """Examples:
  goodfit train photos/ --epochs 20
  goodfit train photos/ --budget "10 min" --size 64 --out runs/pets
  goodfit train photos/ --from resnet18:imagenet --augment "flip | jitter"

Every option: goodfit train --help --all. Every part: goodfit parts.""",
}
TRUST = "--trust"
HELP_EPILOGUE = (
    "With every command: --quiet (-q) leaves only warnings, errors and results. --trust lets the files and classes run that a recipe or run"
    " from elsewhere names, --trust=PACKAGE also the functions of a package."
)


def application() -> cyclopts.App:
    """The app with all its verbs, each imported when it is asked for."""
    import cyclopts
    from rich.console import Console

    from goodfit.terminal.streams import RESULTS

    app = cyclopts.App(
        name="goodfit",
        help="Train image classifiers that fit, and hear why when they do not.",
        help_epilogue=HELP_EPILOGUE,
        version_flags=["--version"],
        help_format="plaintext",
        suppress_keyboard_interrupt=False,  # main says in a sentence what is kept
        default_parameter=cyclopts.Parameter(show_default=format_default, negative=""),  # no --no-json, no --empty-use
        console=Console(file=cast(IO[str], RESULTS)),
    )
    for place, (verb, sentence) in enumerate(VERBS.items()):
        if verb in NOUNS:
            group = cyclopts.App(name=verb, help=sentence, sort_key=place)
            for noun_place, (noun, about) in enumerate(NOUNS[verb].items()):
                group.command(f"goodfit.cli.{verb}:{noun}", name=noun, help=about, sort_key=noun_place)
            app.command(group)
            continue
        app.command(f"goodfit.cli.{verb}:{verb}", name=verb, help=sentence, help_prologue=EXAMPLES.get(verb), sort_key=place)
    return app


def format_default(value: object) -> str | None:
    """The default as --help shows it; empty ones are not shown."""
    return str(value) if value not in (None, "", False, [], ()) else None


def main() -> None:
    """Run a command line; every error a person can act on is one sentence on stderr and an exit code."""
    try:  # nothing that takes time is imported before: Ctrl-C may come at any moment
        from goodfit.cli.stops import receive_stops

        receive_stops()
        sys.path.append("")  # the user's own packages, for dotted names; last, so that no file of theirs hides a library
        from goodfit.core.trust import use_trust

        words = [*sys.argv[2:], "--help"] if sys.argv[1:2] == ["help"] else sys.argv[1:]
        trust, words = read_trust(words)
        show_first_sign(words)
        with use_trust(trust):
            run_verb([word for word in words if word not in (*QUIET, *(["--all"] if "--help" in words else []))])  # cli.options sees it
    except (KeyboardInterrupt, Exception) as error:
        explained = explain_error(error)
        if explained is None:
            raise
        exit_with(explained)
    finally:
        from goodfit.terminal.streams import SPINNER

        SPINNER.stop()


def read_trust(words: list[str]) -> tuple[Trust, list[str]]:
    """What --trust in a command line lets run, and the words of that line without it."""
    from goodfit.core.trust import Trust

    is_trust = [word.partition("=")[0] == TRUST for word in words]
    given = [word for word, found in zip(words, is_trust, strict=True) if found]
    others = [word for word, found in zip(words, is_trust, strict=True) if not found]
    packages = {package for word in given for package in word.partition("=")[2].split(",") if package}
    return Trust(bool(given), frozenset(packages)), others


def show_first_sign(words: list[str]) -> None:
    """Show at once, before anything is imported, that a command which takes seconds to begin has begun; unless it is to be quiet."""
    from goodfit.core.launched import is_first
    from goodfit.terminal.streams import MESSAGES, SPINNER

    MESSAGES.quiet = any(word in QUIET for word in words)
    if words and words[0] in VERBS and words[0] not in WITHOUT_TORCH and "--help" not in words and is_first():
        SPINNER.show("loading PyTorch")


def run_verb(arguments: list[str]) -> None:
    """Run the words of a command line.

    Raises:
        UsageError: they are no command.
    """
    import cyclopts

    from goodfit.core.errors import UsageError

    try:
        application()(arguments, exit_on_error=False, print_error=False, result_action="return_value")
    except cyclopts.UnusedCliTokensError as error:
        unused = " ".join(error.unused_tokens or ())
        hint = 'did you mean "--resume auto"?' if unused == "resume" else 'put a value with spaces in quotes, such as --budget "10 min".'
        raise UsageError(f'Expected no more, found "{unused}": {hint}') from error
    except cyclopts.UnknownOptionError as error:
        raise UsageError(f'{explain_unknown_option(error)} "goodfit {arguments[0]} --help" lists the options.') from error
    except cyclopts.MissingArgumentError as error:
        hint = ' Did you mean "--resume auto"?' if arguments[-1:] == ["--resume"] else ""
        raise UsageError(f"{' '.join(str(error).split())}{hint}") from error
    except cyclopts.CoercionError as error:
        given = str(error.token.value) if error.token else ""
        hint = f" Did you mean {given.replace(',', '.')}?" if re.fullmatch(r"\d+,\d+", given) else ""
        raise UsageError(f"{' '.join(str(error).split())}{hint}") from error
    except cyclopts.CycloptsError as error:
        raise UsageError(f'{" ".join(str(error).split())} "goodfit --help" lists the commands.') from error


def explain_unknown_option(error: cyclopts.UnknownOptionError) -> str:
    """The sentence for an option that a command does not have, with the one that is meant."""
    from goodfit.core.errors import find_nearest

    option = error.token.keyword or error.token.value
    names = {name.lstrip("-").replace("-", "_"): name for argument in error.argument_collection for name in argument.names}
    meant = names.get(find_nearest(option.lstrip("-"), list(names)), "")
    return f'Unknown option "{option}".{f" Did you mean {meant}?" if meant else ""}'


def explain_error(error: BaseException) -> GoodfitError | None:
    """The error that a person can act on; None for a bug."""
    from goodfit.cli.stops import explain_stop
    from goodfit.cli.user_code import explain_call_error, explain_user_code_error
    from goodfit.core.errors import GoodfitError

    if stopped := explain_stop(error):
        return stopped
    if isinstance(error, GoodfitError):
        return error
    if not isinstance(error, Exception) or os.environ.get("GOODFIT_TRACEBACK"):
        return None
    if scarcity := explain_scarcity(error):
        return GoodfitError(scarcity)
    if explained := explain_user_code_error(error) or explain_call_error(error):
        return explained
    if isinstance(error, OSError) and error.filename is not None:  # the machine's, and of no kind that has a sentence of its own
        return GoodfitError(f'"{error.filename}": {error.strerror}. GOODFIT_TRACEBACK=1 shows where.')
    return None


def explain_scarcity(error: Exception) -> str:
    """The sentence for an error that says that the machine has no more memory or threads to give; empty for others."""
    is_torch_loaded = "torch" in sys.modules
    if isinstance(error, RuntimeError) and "start new thread" in str(error):
        return "The system gives this process no more threads: choose fewer --workers or --threads, or end other processes."
    if is_torch_loaded:
        from goodfit.core.device import is_out_of_memory
    if is_out_of_memory(error) if is_torch_loaded else isinstance(error, MemoryError):
        return "Memory ran out: choose a smaller --model, --size or --batch-size, or end other processes."
    return ""


def exit_with(error: GoodfitError) -> NoReturn:
    """Print the error and exit with its code; signals that come meanwhile find nothing left to say.

    Of several processes of one training the first on a machine prints it, see `core.launched`.
    """
    from goodfit.cli.stops import mark_explained
    from goodfit.core.launched import claim_explanation, leave_if_joined
    from goodfit.core.words import hide_passwords
    from goodfit.terminal.streams import print_message

    if claim_explanation(error):
        print_message(f"goodfit: {hide_passwords(str(error))}")
    mark_explained()
    leave_if_joined(error.exit_code)
    sys.exit(error.exit_code)


def process_started() -> float:
    """When this process started, by the steady clock; a budget in minutes counts from there."""
    import psutil

    from goodfit.core.progress import steady_time

    return steady_time() - max(0.0, time.time() - float(psutil.Process().create_time()))
