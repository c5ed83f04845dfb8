"""goodfit parts: every part there is, with its settings and its card."""

from __future__ import annotations

from textwrap import indent

from goodfit.core.errors import UsageError, unknown_name
from goodfit.core.trust import trust_own_code


def parts(
    kind_or_name: str = "",
    /,
    *,
    use: list[str] | None = None,
    json: bool = False,
) -> None:
    """List every part with its settings and defaults; with a kind or a name, print the cards too, with a name also what a search draws.

    Parameters
    ----------
    kind_or_name
        A kind (augment, loss, optimizer, ...) or the name of a part.
    use
        A Python file with your own parts.
    json
        Print the parts as JSON on stdout.
    """
    from goodfit.recipe.cards import read_cards
    from goodfit.terminal.streams import SPINNER, print_json, print_lines

    trust_own_code([], use or [])
    cards = None if use else read_cards()
    if cards is None:
        SPINNER.show("loading PyTorch")
        from goodfit.study.search.defaults import make_cards

        cards = make_cards(use or [])
    chosen = [card for card in cards if kind_or_name in ("", card["kind"], card["name"])]
    if not chosen:
        names = sorted({card["kind"] for card in cards} | {card["name"] for card in cards})
        raise UsageError(unknown_name("kind or part", kind_or_name, names))
    if json:
        print_json(chosen)
        return
    for kind in sorted({card["kind"] for card in chosen}):
        print_lines(kind)
        for card in chosen:
            if card["kind"] == kind:
                text = card["card"] if kind_or_name else card["summary"]
                print_lines(f"  {card['spelling']}", *indent(text, " " * 6).split("\n"), "")
                if kind_or_name == card["name"] and card["searched"]:
                    print_lines(f"      Searched by default: {card['searched']}", "")
