"""goodfit advise: how to transfer a trained net to new images."""

from __future__ import annotations

from goodfit.cli.options import AdviseOptions, Shorts, assemble, refuse_early, start_reporter


def advise(
    data: str = "",
    /,
    *,
    json: bool = False,
    shorts: Shorts | None = None,
    options: AdviseOptions | None = None,
) -> None:
    """Say which stages of the net of --from to train on new images, by linear probes at every stage. No stage is trained.

    Parameters
    ----------
    data
        The images, as for train.
    json
        Print the advice and its evidence as JSON on stdout.
    """
    asked = assemble(data, shorts, options)
    refuse_early(asked)
    reporter = start_reporter(asked)
    from goodfit.recipe.prepare import open_source
    from goodfit.recipe.transfer.advise import advise as advise_transfer
    from goodfit.terminal.streams import print_json, print_lines

    opened, net = open_source(asked, reporter)
    advice = advise_transfer(opened.chooser, net, opened.data)
    if json:
        print_json(advice.plain())
        return
    print_lines(f"{net.name} on {opened.data.name}", "", *advice.table().split("\n"), "")
    print_lines(f'{advice.amount.capitalize()} and {advice.kinship} data. The lecture: "{advice.lecture}".')
    print_lines(f"  {advice.rule}: {advice.evidence}", f"Advice: {advice.patch}")
