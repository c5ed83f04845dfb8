"""One test of a law over many cases: all of them are tried, and it fails with those of which the law does not hold."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any


def holds_for(cases: Mapping[str, tuple[Any, ...]] | Iterable[str]) -> Callable[[Callable[..., None]], Callable[[], None]]:
    """Make a test of a law that takes a case's values; of a list of names, each name is its own value.

    An item of pytest costs some milliseconds in every worker, which is more than most laws take on one case.
    """
    named = dict(cases) if isinstance(cases, Mapping) else {name: (name,) for name in cases}

    def decorate(law: Callable[..., None]) -> Callable[[], None]:
        def test() -> None:
            errors = []
            for name, values in named.items():
                try:
                    law(*values)
                except Exception as error:
                    error.add_note(f"{law.__name__}: {name}")
                    errors.append(error)
            if errors:
                failed = [note for error in errors for note in error.__notes__[-1:]]
                raise ExceptionGroup(f"{len(errors)} of {len(named)} cases: {', '.join(failed)}", errors)

        assert named, "no case"
        test.__name__, test.__doc__, test.__module__ = law.__name__, law.__doc__, law.__module__
        test.law = law  # type: ignore[attr-defined]
        return test

    return decorate
