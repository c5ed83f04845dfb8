"""goodfit serve: predictions over HTTP."""

from __future__ import annotations

from typing import Annotated

from cyclopts import Parameter

from goodfit.core.reporter import WARNING
from goodfit.core.trust import trust_own_code
from goodfit.serve.options import ServeOptions


def serve(run: str, /, *, options: Annotated[ServeOptions | None, Parameter(name="*")] = None) -> None:
    """Serve the predictions of a run or an ensemble over HTTP, until Ctrl-C or SIGTERM; requests under way are answered first.

    POST /predict takes one image as its body, or several as the files of a form, and answers as predict --json; images of concurrent
    requests are computed together. GET /docs shows all paths. Needs the extra: pip install "goodfit[serve]".

    Parameters
    ----------
    run
        The folder of a run or an ensemble, such as runs/latest.
    """
    options = options or ServeOptions()
    from goodfit.cli.predict import check_numbers
    from goodfit.core.run import Run

    check_numbers(1, options.reject_below)
    options.check()
    trust_own_code([options.views])
    opened = Run.open(run)  # refused before torch is imported
    from goodfit.predict.prediction import refuse_rejection
    from goodfit.predict.predictor import load_predictor
    from goodfit.serve.server import make_server, open_address, read_facts, serve_until_stopped
    from goodfit.terminal.reporter import TerminalReporter
    from goodfit.terminal.streams import print_lines

    address = open_address(options)  # refused before the model is loaded
    with address.listener:
        predictor = load_predictor(opened, "cpu" if options.engine == "onnx" else options.device, options.views, TerminalReporter())
        refuse_rejection(run, predictor.task.name, options.reject_below)
        if options.engine == "onnx":
            import torch

            from goodfit.predict.onnx_network import use_onnx

            torch.set_num_threads(1)  # it prepares pixels alone: more threads would take the cores from ONNX Runtime's
            predictor = use_onnx(predictor, opened)
        if address.hosts is None:
            TerminalReporter().say(f"{WARNING}requests and the token travel unencrypted: put a proxy with TLS before {address.url}.")
        server = make_server(predictor, read_facts(opened), options, address, print_lines)
        serve_until_stopped(server, address)
