"""Errors inside a part of the user's own: which one failed, and where in its file."""

from __future__ import annotations

from traceback import walk_tb

from goodfit.core.catalog import USED, Part, name_of
from goodfit.core.errors import GoodfitError


def fault(error: Exception) -> GoodfitError | None:
    """What to say of an error that passed through a file given with --use; None for one that did not.

    The place is the last in such a file; the part, the class that the code there belongs to or was called from.
    """
    own = [(frame, line) for frame, line in walk_tb(error.__traceback__) if str(frame.f_globals.get("__name__")).startswith(USED)]
    if not own:
        return None
    owners = [frame.f_globals.get(frame.f_code.co_qualname.partition(".")[0]) for frame, _ in reversed(own)]
    owner = next((x for x in owners if isinstance(x, type)), None)
    what = f'Your part "{name_of(owner) if issubclass(owner, Part) else owner.__name__}"' if owner else "Your code"
    frame, line = own[-1]
    why = ": ".join([type(error).__name__, *str(error).splitlines()[:1]]).rstrip(".")
    return GoodfitError(f'{what} failed at "{frame.f_code.co_filename}", line {line}: {why}. GOODFIT_TRACEBACK=1 shows the way there.')
