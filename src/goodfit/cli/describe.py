"""goodfit describe: a network layer by layer, with its parameters and multiply-adds."""

from __future__ import annotations

from typing import Annotated

from cyclopts import Parameter

from goodfit.core.errors import UsageError


def describe(
    model: str,
    /,
    *,
    classes: int = 1000,
    channels: int = 3,
    size: str = "224",
    use: Annotated[list[str] | None, Parameter(negative="")] = None,
    json: Annotated[bool, Parameter(negative="")] = False,
) -> None:
    """Account for a network: output shape, parameters, multiply-adds and activation memory of every layer.

    Parameters
    ----------
    model
        A model part, such as "resnet(18)", or your own class by dotted name.
    classes
        How many classes it tells apart.
    channels
        1 for gray, 3 for color images.
    size
        Height and width of its input: "224" or "128x96".
    use
        A Python file with your own parts.
    json
        Print the account as JSON on stdout.
    """
    if classes < 1 or channels < 1:
        raise UsageError(f"Expected --classes and --channels to be 1 or more, received {classes} and {channels}.")
    import torch

    from goodfit.models.account import account
    from goodfit.recipe.build import catalog, make_model
    from goodfit.recipe.size import parse_size

    part = catalog(use or []).make(model, "model")
    height, width = parse_size(size)
    with torch.device("meta"):
        module = make_model(part, classes, channels, (height, width))
    try:
        result = account(module, channels, (height, width))
    except RuntimeError as error:
        reason = str(error).splitlines()[0].rstrip(".")
        raise UsageError(f'The model "{part}" does not take images of {channels}x{height}x{width}: {reason}.') from error
    if json:
        from json import dumps

        print(dumps(result.to_dict()))
    else:
        print(result.table())
