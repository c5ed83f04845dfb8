"""goodfit describe: what a network is made of and what it costs, layer by layer, or several networks side by side."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

from cyclopts import Parameter

from goodfit.core.errors import UsageError

if TYPE_CHECKING:
    from torch import nn

    from goodfit.core.parts import Part
    from goodfit.models.anatomy.account import Account

T = TypeVar("T")
IMAGENET = (1000, 3)  # classes and channels of the lecture's counts
PIXELS = ((224, 224), (227, 227))


@Parameter(name="*", group="Net")
@dataclasses.dataclass(kw_only=True)
class Net:
    """What the network is made for, and how it would be trained."""

    classes: Annotated[int, Parameter(help="How many classes it tells apart.")] = 1000
    channels: Annotated[int, Parameter(help="1 for gray, 3 for color images.")] = 3
    size: Annotated[str, Parameter(help='Height and width of its input: "224" or "128x96".')] = "224"
    batch: Annotated[int, Parameter(help="How many images at once; operations and memory are those of all.")] = 1
    optimizer: Annotated[str, Parameter(help="The optimizer that a training step's memory is told for.")] = "sgd"
    use: Annotated[list[str], Parameter(help="A Python file with your own parts.")] = dataclasses.field(default_factory=list)


@Parameter(name="*", group="Form")
@dataclasses.dataclass(kw_only=True)
class Form:
    """How it is printed."""

    stages: Annotated[bool, Parameter(help="A line for each stage instead of each layer.")] = False
    csv: Annotated[bool, Parameter(help="Print the lines as CSV on stdout.")] = False
    json: Annotated[bool, Parameter(help="Print everything as JSON on stdout.")] = False


def describe(
    model: str = "",
    /,
    *,
    compare: Annotated[list[str] | None, Parameter(consume_multiple=True)] = None,
    net: Net | None = None,
    form: Form | None = None,
) -> None:
    """Account for a network: output shape, parameters, multiply-adds, activation memory and receptive field of every layer.

    Activations are the numbers that a layer puts out; kept is what of it waits for the backward pass in training; the field is how many
    pixels of the image an output depends on, in rows and columns, along the longest path, and the stride how many lie between two
    outputs ("-" where that is not known, or there are no sides any more).

    Parameters
    ----------
    model
        A model part, such as "resnet(18)", your own class by dotted name, or a run folder.
    compare
        Models to set side by side: parameters and operations, and the shares of conv and fully connected layers.
    """
    net, form = net or Net(), form or Form()
    if net.classes < 1 or net.channels < 1:
        raise UsageError(f"Expected --classes and --channels to be 1 or more, received {net.classes} and {net.channels}.")
    if net.batch < 1:
        raise UsageError(f"Expected --batch to be 1 or more, received {net.batch}.")
    if form.csv and form.json:
        raise UsageError("Expected one of --csv and --json, received both.")
    if compare:
        several([model, *compare] if model else compare, net, form)
    elif model:
        one(model, net, form)
    else:
        raise UsageError('Expected a model, such as "resnet(18)", or several after --compare, received none.')


@dataclasses.dataclass(frozen=True)
class Subject:
    """A network with its name, its part (None: it comes from a run), and the classes and images it is made for."""

    name: str
    part: Part | None
    module: nn.Module
    classes: int
    channels: int
    size: tuple[int, int]

    def account(self, batch: int) -> Account:
        """Its account; a model that does not take such images is refused in one sentence."""
        from goodfit.models.anatomy.account import account

        try:
            return account(self.module, self.channels, self.size, batch)
        except (RuntimeError, ValueError, TypeError, IndexError, NotImplementedError) as error:
            shape = f"{self.channels}x{self.size[0]}x{self.size[1]}"
            raise UsageError(f'The model "{self.name}" does not take images of {shape}: {reason(error)}.') from error

    def listed(self, table: Mapping[str, T]) -> T | None:
        """What a table of models has for this one, however it is spelled."""
        from goodfit.recipe.parts import load_catalog

        known = load_catalog()
        return next((value for text, value in table.items() if known.make(text, "model") == self.part), None)


def subject(model: str, net: Net) -> Subject:
    """A network by its part, its dotted name, or the folder of the run that trained it."""
    import torch

    from goodfit.recipe.parts import load_catalog, make_model
    from goodfit.recipe.recipe import parse_size

    if (Path(model) / "recipe.toml").is_file():
        from goodfit.predict.predictor import load_classifier

        trained = load_classifier(model, "cpu")
        return Subject(model, None, trained.model, len(trained.classes), trained.preprocess.channels, trained.preprocess.size)
    part, size = load_catalog(net.use).make(model, "model"), parse_size(net.size)
    with torch.device("meta"):
        return Subject(model, part, make_model(part, net.classes, net.channels, size), net.classes, net.channels, size)


def one(model: str, net: Net, form: Form) -> None:
    """Print the account of one network."""
    from goodfit.models.anatomy.lecture import ERRATA
    from goodfit.models.anatomy.memory import training_step
    from goodfit.recipe.parts import load_catalog
    from goodfit.terminal.anatomy import format_account, format_account_csv

    it = subject(model, net)
    made, note = it.account(net.batch), ""
    optimizer: Any = load_catalog(net.use).make(net.optimizer, "optimizer")
    try:
        made = made.trained(training_step(it.module, it.channels, it.size, net.batch, optimizer))
    except (RuntimeError, ValueError, TypeError, IndexError, NotImplementedError, UsageError) as error:
        note = f"What training takes is not known: {reason(error)}."
    if form.json:
        from json import dumps

        print(dumps({"model": it.name, **made.to_dict()}))
        return
    if form.csv:
        print(format_account_csv(made, form.stages))
        return
    lecture = it.listed(ERRATA) if (it.classes, it.channels) == IMAGENET and it.size in PIXELS else None
    print("\n".join(line for line in (format_account(made, form.stages), note, lecture) if line))


def several(models: list[str], net: Net, form: Form) -> None:
    """Print networks side by side."""
    from goodfit.models.anatomy.account import compare_accounts
    from goodfit.models.anatomy.lecture import ERRORS
    from goodfit.terminal.anatomy import format_model_comparison, format_model_comparison_csv

    found = [subject(model, net) for model in models]
    accounts = {it.name: it.account(net.batch) for it in found}
    errors = {it.name: error for it in found if (error := it.listed(ERRORS))}
    if form.json:
        from json import dumps

        print(dumps(compare_accounts(accounts, errors)))
    else:
        print(format_model_comparison_csv(accounts, errors) if form.csv else format_model_comparison(accounts, errors))


def reason(error: Exception) -> str:
    """The first line of an error, to be put into a sentence."""
    return (str(error).splitlines() or [type(error).__name__])[0].rstrip(".")
