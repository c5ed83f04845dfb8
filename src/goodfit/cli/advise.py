"""goodfit advise: how to transfer a trained net to new images."""

from __future__ import annotations

from goodfit.cli.options import Options, Shorts, assemble


def advise(
    data: str = "",
    /,
    *,
    json: bool = False,
    shorts: Shorts | None = None,
    options: Options | None = None,
) -> None:
    """Say which stages of the net of --from to train on new images, and at what rate, by linear probes at every stage. Nothing is trained.

    Parameters
    ----------
    data
        The images, as for train.
    json
        Print the advice and its evidence as JSON on stdout.
    """
    asked = assemble(data, shorts, options)
    from json import dumps

    from goodfit.recipe.transfer.advise import advice
    from goodfit.recipe.transfer.origin import origin
    from goodfit.terminal.reporter import Terminal

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
