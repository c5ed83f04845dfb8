"""Requests a second and latencies of `goodfit serve` against a plain server of ONNX Runtime and Starlette, same model, images and client.

The two take turns (A, B, A, ...) as processes of their own on loopback, and a third process sends the images over so many connections,
each of which waits for its answer before it sends the next.
"""

from __future__ import annotations

import argparse
import asyncio
import io
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import psutil

# ---- the plain server ------------------------------------------------------------------------------------------------------------------


def serve_plainly(file: Path, settings: dict[str, Any], port: int) -> None:
    """What one writes in thirty lines: each request is decoded, resized and computed by itself, in Starlette's threads."""
    import onnxruntime
    import uvicorn
    from PIL import Image
    from starlette.applications import Starlette
    from starlette.concurrency import run_in_threadpool
    from starlette.requests import Request
    from starlette.responses import JSONResponse
    from starlette.routing import Route

    session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
    mean, std = (np.array(settings[key], np.float32) for key in ("mean", "std"))
    height, width = settings["size"]

    def answer(body: bytes) -> list[dict[str, Any]]:
        image = Image.open(io.BytesIO(body))
        image.draft("RGB", (width, height))  # JPEGs are decoded at half, a quarter or an eighth of their size where that is enough
        pixels = np.asarray(image.convert("RGB").resize((width, height), Image.Resampling.BILINEAR), np.float32)
        (scores,) = session.run(None, {"images": ((pixels / 255 - mean) / std).transpose(2, 0, 1)[None]})
        exponentials = np.exp(scores[0] - scores[0].max())
        probabilities = exponentials / exponentials.sum()
        order = probabilities.argsort()[::-1][:5]
        return [{"classes": [settings["classes"][k] for k in order], "probabilities": [float(probabilities[k]) for k in order]}]

    async def predict(request: Request) -> JSONResponse:
        return JSONResponse(await run_in_threadpool(answer, await request.body()))

    app = Starlette(routes=[Route("/predict", predict, methods=["POST"])])
    uvicorn.run(app, port=port, log_level="critical", access_log=False)


# ---- the client ------------------------------------------------------------------------------------------------------------------------


async def send(port: int, bodies: list[bytes], end: float, first: int) -> list[float]:
    """The seconds of each request of one connection until the end, by time.perf_counter."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    seconds = []
    while (began := time.perf_counter()) < end:
        body = bodies[(first + len(seconds)) % len(bodies)]
        writer.write(b"POST /predict HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
        head = await reader.readuntil(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 200"), head
        length = next(int(line.split(b":")[1]) for line in head.split(b"\r\n") if line.lower().startswith(b"content-length"))
        await reader.readexactly(length)
        seconds.append(time.perf_counter() - began)
    writer.close()
    return seconds


async def load(port: int, folder: Path, connections: int, duration: float) -> dict[str, float]:
    """Requests a second and percentiles of their milliseconds, of so many connections at a time."""
    bodies = [file.read_bytes() for file in sorted(folder.iterdir())]
    began = time.perf_counter()
    jobs = (send(port, bodies, began + duration, k * 7) for k in range(connections))
    seconds = np.array([x for row in await asyncio.gather(*jobs) for x in row])
    p50, p95, p99 = (1000 * np.percentile(seconds, [50, 95, 99])).tolist()
    return {"requests": len(seconds), "requests_per_s": len(seconds) / (time.perf_counter() - began), "p50": p50, "p95": p95, "p99": p99}


# ---- taking turns ----------------------------------------------------------------------------------------------------------------------


def write_model(run: Path, folder: Path) -> tuple[Path, Path]:
    """The network alone of a run as an ONNX file, and what the plain server must know of it."""
    import torch

    import goodfit
    from goodfit.predict.export import trace_module
    from goodfit.predict.onnx_network import Scores

    (member,) = goodfit.load(run).members
    shown = member.preprocess
    images = torch.zeros(2, shown.channels, *shown.size)
    proto = trace_module(Scores(member.model).eval(), images, "scores", {"images": {0: "N"}})
    (folder / "plain.onnx").write_bytes(proto.SerializeToString())
    settings = {"size": shown.size, "mean": shown.mean, "std": shown.std, "classes": member.classes}
    (folder / "plain.json").write_text(json.dumps(settings))
    return folder / "plain.onnx", folder / "plain.json"


def wait_for(port: int) -> None:
    """Wait until a server answers."""
    for _ in range(600):
        try:
            asyncio.run(send(port, [], 0, 0))
        except OSError:
            time.sleep(0.1)
        else:
            return
    raise SystemExit("the server does not answer")


@contextmanager
def at_work(words: list[str], port: int) -> Iterator[psutil.Process]:
    """A server as a process of its own."""
    process = subprocess.Popen([sys.executable, *words], stdout=subprocess.DEVNULL)
    try:
        wait_for(port)
        yield psutil.Process(process.pid)
    finally:
        process.terminate()
        process.wait()


def measure(server: psutil.Process, port: int, folder: Path, connections: int, duration: float) -> dict[str, float]:
    """The figures of a client process, after a second of which nothing is kept, and the server's CPU milliseconds for a request."""
    for seconds in (1.0, duration):
        words = [sys.executable, __file__, "client", str(port), str(folder), str(connections), str(seconds)]
        before = sum(server.cpu_times()[:2])
        found = json.loads(subprocess.run(words, check=True, capture_output=True, text=True).stdout)
    used = sum(server.cpu_times()[:2]) - before
    return {**found, "cpu_ms": 1000 * used / found.pop("requests")}


def compare(arguments: argparse.Namespace, images: Path, folder: Path) -> list[dict[str, Any]]:
    """Rows of figures by server and number of connections: the medians over the turns."""
    model, settings = write_model(arguments.run, folder)
    ports = {"goodfit, onnx": 8731, "goodfit, torch": 8732, "plain": 8733}
    ours = ["-m", "goodfit", "serve", str(arguments.run), "--port"]
    servers = {
        "goodfit, onnx": [*ours, str(ports["goodfit, onnx"]), "--engine", "onnx"],
        "goodfit, torch": [*ours, str(ports["goodfit, torch"])],
        "plain": [__file__, "plain", str(model), str(settings), str(ports["plain"])],
    }
    found: dict[tuple[str, int], list[dict[str, float]]] = {}
    for turn in range(arguments.turns):
        for name in ("goodfit, onnx", "plain", *(["goodfit, torch"] if turn < arguments.turns - 1 else [])):
            with at_work(servers[name], ports[name]) as process:
                for connections in arguments.connections:
                    figures = measure(process, ports[name], images, connections, arguments.seconds)
                    found.setdefault((name, connections), []).append(figures)
                    print(name, connections, {key: round(x, 1) for key, x in figures.items()}, file=sys.stderr, flush=True)
    return [
        {"server": name, "connections": n, "turns": rows, **{key: statistics.median(row[key] for row in rows) for key in rows[0]}}
        for (name, n), rows in found.items()
    ]


def main() -> None:
    """Take turns; `plain` and `client` are the other two processes."""
    if sys.argv[1:2] == ["plain"]:
        serve_plainly(Path(sys.argv[2]), json.loads(Path(sys.argv[3]).read_text()), int(sys.argv[4]))
        return
    if sys.argv[1:2] == ["client"]:
        port, folder, connections, seconds = sys.argv[2:]
        print(json.dumps(asyncio.run(load(int(port), Path(folder), int(connections), float(seconds)))))
        return
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", type=Path, help="a run folder of one model")
    parser.add_argument("images", type=Path, help="a folder with JPEG files in it, at any depth; 64 of them are sent")
    parser.add_argument("--connections", type=int, nargs="*", default=[1, 8, 32])
    parser.add_argument("--seconds", type=float, default=8, help="of each measurement")
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--json", type=Path, help="where to write the figures")
    arguments = parser.parse_args()
    from goodfit.core.device import cpu_name
    from goodfit.core.run import Run

    with tempfile.TemporaryDirectory() as name:
        images = Path(name) / "images"
        images.mkdir()
        files = sorted(arguments.images.rglob("*.jpg"))
        for k, file in enumerate(files[:: max(1, len(files) // 64)][:64]):
            (images / f"{k:02}.jpg").write_bytes(file.read_bytes())
        rows = compare(arguments, images, Path(name))
    run = Run.open(arguments.run)
    about = {"machine": cpu_name(), "cores": len(os.sched_getaffinity(0)), "load": os.getloadavg()[0]}
    config = run.read("config.json", "model", "preprocess")
    model = {"model": config["model"], "size": config["preprocess"]["input_size"][1:], "images": arguments.images.name}
    print(json.dumps({**about, **model}))
    for row in rows:
        shown = "  ".join(f"{key} {row[key]:8.1f}" for key in ("requests_per_s", "p50", "p95", "p99", "cpu_ms"))
        print(f"{row['server']:15} {row['connections']:3} connections  {shown}")
    if arguments.json:
        arguments.json.write_text(json.dumps({**about, **model, "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
