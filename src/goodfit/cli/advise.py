"""goodfit advise: how to transfer a trained net to new images."""

from __future__ import annotations

from typing import Annotated

from cyclopts import Parameter

from goodfit.cli.options import Options, assemble


def advise(
    data: str = "",
    /,
    *,
    recipe: str = "",
    use: Annotated[list[str] | None, Parameter(negative="")] = None,
    json: Annotated[bool, Parameter(negative="")] = False,
    options: Options | None = None,
) -> None:
    """Say which stages of the net of --from to train on new images, and at what rate, by linear probes at every stage. Nothing is trained.

    Parameters
    ----------
    data
        The images, as for train.
    recipe
        A recipe file or the name of a preset to start from.
    use
        A Python file with your own parts.
    json
        Print the advice and its evidence as JSON on stdout.
    """
    asked = assemble(data, recipe, options, [], use or [])
    from json import dumps

    from goodfit.study.advise import advice
    from goodfit.study.origin import origin
    from goodfit.watch.voice import Terminal

    voice = Terminal()
    there = origin(asked, voice)
    found = advice(there)
    if json:
        print(dumps(found.plain()))
        return
    voice.say(f"{there.learned.name} on {there.data.name}\n")
    voice.say(found.table())
    voice.say(f'\n{found.amount.capitalize()} and {found.kinship} data. The lecture: "{found.lecture}".')
    for reason in found.reasons:
        voice.say(f"  {reason}")
    voice.say(f"Advice: {found.patch}")
