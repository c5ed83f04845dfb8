"""Errors inside a part of the user's own: which one failed, and where in its file."""

from __future__ import annotations

from traceback import walk_tb

from goodfit.core.errors import GoodfitError
from goodfit.core.parts import ExternalPart, Part, part_name
from goodfit.core.user_code import USER_MODULE_PREFIX


def explain_user_code_error(error: Exception) -> GoodfitError | None:
    """Explain an error that passed through a file given with --use; None for one that did not.

    The line is the last one in such a file; the part is the class that its code belongs to or was called from.
    """
    user_frames = [
        (frame, line) for frame, line in walk_tb(error.__traceback__) if str(frame.f_globals.get("__name__")).startswith(USER_MODULE_PREFIX)
    ]
    if not user_frames:
        return None
    owners = [frame.f_globals.get(frame.f_code.co_qualname.partition(".")[0]) for frame, _ in reversed(user_frames)]
    owner = next((x for x in owners if isinstance(x, type)), None)
    what = f'Your part "{part_name(owner) if issubclass(owner, Part) else owner.__name__}"' if owner else "Your code"
    frame, line = user_frames[-1]
    why = ": ".join([type(error).__name__, *str(error).splitlines()[:1]]).rstrip(".")
    return GoodfitError(f'{what} failed at "{frame.f_code.co_filename}", line {line}: {why}. GOODFIT_TRACEBACK=1 shows the traceback.')


def explain_call_error(error: Exception) -> GoodfitError | None:
    """Explain an error of a class or function that was called by its dotted name; None for other errors."""
    frames = [frame for frame, _ in walk_tb(error.__traceback__) if frame.f_code is ExternalPart.__call__.__code__]
    if not frames:
        return None
    part = str(frames[-1].f_locals["self"])
    why = ": ".join([type(error).__name__, *str(error).splitlines()[:1]]).rstrip(".")
    return GoodfitError(f'The call of "{part[:200]}" failed: {why}. GOODFIT_TRACEBACK=1 shows the traceback.')
