"""goodfit describe: what a network is made of and what it costs, layer by layer, or what flows through it; several side by side."""

from __future__ import annotations

import dataclasses
import os
from typing import Annotated

from cyclopts import Parameter

from goodfit.core.errors import UsageError
from goodfit.core.trust import trust_own_code
from goodfit.core.words import count_of


@Parameter(name="*", group="Network")
@dataclasses.dataclass(kw_only=True)
class InputOptions:
    """What the network is made for, and how it would be trained."""

    classes: Annotated[int, Parameter(help="How many classes it tells apart.")] = 1000
    channels: Annotated[int, Parameter(help="1 for gray, 3 for color images.")] = 3
    size: Annotated[str, Parameter(help='Height and width of its input: "224" or "128x96".')] = "224"
    batch: Annotated[int, Parameter(help="How many images at once; operations and memory are those of all.")] = 1
    optimizer: Annotated[str, Parameter(help="The optimizer that a training step's memory is given for.")] = "sgd"
    use: Annotated[list[str], Parameter(help="A Python file with your own parts.")] = dataclasses.field(default_factory=list)


@Parameter(name="*", group="Output")
@dataclasses.dataclass(kw_only=True)
class OutputOptions:
    """How the account is printed."""

    stages: Annotated[bool, Parameter(help="A line for each stage instead of each layer.")] = False
    csv: Annotated[bool, Parameter(help="Print the lines as CSV on stdout.")] = False
    json: Annotated[bool, Parameter(help="Print everything as JSON on stdout.")] = False
    speed: Annotated[bool, Parameter(help="Also measure how many images a second this machine's processor answers, a batch at a time.")] = (
        False
    )


@Parameter(name="*", group="Signals")
@dataclasses.dataclass(kw_only=True)
class SignalOptions:
    """What flows through a network, measured on a batch of images."""

    signals: Annotated[bool, Parameter(help="How large signals and gradients are in each layer, instead of what it costs.")] = False
    inits: Annotated[
        list[str], Parameter(consume_multiple=True, help='Initializations to set side by side: "gaussian(0.01)" xavier he.')
    ] = dataclasses.field(default_factory=list)
    data: Annotated[str, Parameter(help="Images to measure on, as for train; without, for a run its own, else random numbers.")] = ""

    def __bool__(self) -> bool:
        return bool(self.signals or self.inits or self.data)


def describe(
    model: str = "",
    /,
    *,
    compare: Annotated[list[str] | None, Parameter(consume_multiple=True)] = None,
    network: InputOptions | None = None,
    signals: SignalOptions | None = None,
    output: OutputOptions | None = None,
) -> None:
    """Account for a network: output shape, parameters, multiply-adds, activation memory and receptive field of every layer.

    Activations are the numbers in a layer's output; kept is the part of it that training keeps for the backward pass; the field is how many
    pixels of the image an output depends on, in rows and columns, along the longest path, and the stride how many lie between two
    outputs ("-" where that is unknown, or the output has no sides any more). With --signals, whether signals fade or grow from layer
    to layer, and whether a copy of the network learns 20 images by heart.

    Parameters
    ----------
    model
        A model part, such as "resnet(18)", your own class by dotted name, or a run folder.
    compare
        Models to set side by side: parameters and operations, and the shares of conv and fully connected layers.
    """
    network, output = network or InputOptions(), output or OutputOptions()
    _refuse_misuse(network, output)
    if not model and not compare:
        raise UsageError('Expected a model, such as "resnet(18)", or several after --compare, received none.')
    parts = [text for text in (model, *(compare or ())) if not os.path.exists(text)]  # noqa: PTH110  a text may be too long for a path
    trust_own_code([network.optimizer, *parts, *(signals.inits if signals else ())], network.use)
    if signals:
        if compare or output.csv or output.speed:
            other = "--compare" if compare else "--csv" if output.csv else "--speed"
            raise UsageError(f"Expected --signals for one model, as a table or with --json, received {other} too.")
        _describe_signals(model, network, signals, output.json)
        return
    if compare:
        _compare([model, *compare] if model else compare, network, output)
        return
    from goodfit.study import networks
    from goodfit.terminal.anatomy import format_account, format_account_csv
    from goodfit.terminal.streams import print_exact, print_json, print_lines

    made_for = networks.NetworkOptions(network.classes, network.channels, network.size, network.batch, tuple(network.use))
    account, notes = networks.describe_network(model, made_for, network.optimizer)
    speed = networks.measure_speed(model, made_for) if output.speed else None
    if speed is not None:
        notes.append(f"It answers {speed:,.1f} images a second on this machine's processor, {count_of(network.batch, 'image')} at a time.")
    if output.json:
        print_json({"model": model, **account.to_dict(), **({"images_per_second": speed} if speed is not None else {})})
    elif output.csv:
        print_exact(format_account_csv(account, output.stages))
    else:
        print_lines(*format_account(account, output.stages).split("\n"), *notes)


def _refuse_misuse(network: InputOptions, output: OutputOptions) -> None:
    """Refuse numbers below one, and two forms of output."""
    if network.classes < 1 or network.channels < 1:
        raise UsageError(f"Expected --classes and --channels to be 1 or more, received {network.classes} and {network.channels}.")
    if network.batch < 1:
        raise UsageError(f"Expected --batch to be 1 or more, received {network.batch}.")
    if output.csv and output.json:
        raise UsageError("Expected one of --csv and --json, received both.")


def _compare(models: list[str], network: InputOptions, output: OutputOptions) -> None:
    """Print several models side by side."""
    from goodfit.models.anatomy.account import compare_accounts
    from goodfit.study import networks
    from goodfit.terminal.anatomy import format_model_comparison, format_model_comparison_csv
    from goodfit.terminal.streams import print_exact, print_json, print_lines

    made_for = networks.NetworkOptions(network.classes, network.channels, network.size, network.batch, tuple(network.use))
    accounts, errors = networks.compare_networks(models, made_for)
    speeds = {name: networks.measure_speed(name, made_for) for name in accounts} if output.speed else None
    if output.json:
        print_json(compare_accounts(accounts, errors, speeds))
    elif output.csv:
        print_exact(format_model_comparison_csv(accounts, errors, speeds))
    else:
        print_lines(*format_model_comparison(accounts, errors, speeds).split("\n"))


def _describe_signals(model: str, network: InputOptions, signals: SignalOptions, as_json: bool) -> None:
    """Print what flows through a model's layers."""
    from goodfit.terminal.reporter import TerminalReporter

    reporter = TerminalReporter()
    reporter.show_activity("loading PyTorch")
    from goodfit.study.layer_signals import account_for_signals
    from goodfit.study.networks import NetworkOptions
    from goodfit.terminal.layer_signals import format_signals, format_signals_comparison
    from goodfit.terminal.streams import print_json, print_lines

    made_for = NetworkOptions(network.classes, network.channels, network.size, network.batch, tuple(network.use))
    accounts = [account.to_dict() for account in account_for_signals(model, made_for, signals.inits, signals.data, reporter)]
    reporter.clear_progress()
    if as_json:
        print_json({"model": model, "networks": accounts})
        return
    if len(accounts) == 1:
        print_lines(*format_signals(accounts[0]["layers"]).split("\n"), *accounts[0]["notes"])
        return
    print_lines(*format_signals_comparison([(account["name"], account["layers"]) for account in accounts]).split("\n"))
    print_lines(*(f"{account['name']}: {' '.join(account['notes'])}" for account in accounts))
