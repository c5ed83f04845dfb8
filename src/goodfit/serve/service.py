"""Answers the images of concurrent requests in common batches: decoded in threads, computed in one, bounded in number and in time."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import io
from collections import deque
from collections.abc import AsyncIterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from types import TracebackType
from typing import Self

from goodfit.core.device import physical_cores
from goodfit.core.words import count_of
from goodfit.data.opening import BrokenImage, open_image, read_jpeg_layout
from goodfit.predict.prediction import Prediction
from goodfit.predict.predictor import DecodedImage, Predictor
from goodfit.serve.metrics import Metrics
from goodfit.serve.options import ServeOptions
from goodfit.serve.refusals import Refusal


@dataclasses.dataclass(frozen=True)
class Upload:
    """An image as a request brings it."""

    name: str
    content: bytes


@dataclasses.dataclass(frozen=True)
class WaitingImage:
    """A decoded image that waits for a batch `since` then, by the clock of the event loop, and the future of its prediction."""

    name: str
    top: int
    decoded: DecodedImage
    since: float
    prediction: asyncio.Future[Prediction]


class PredictionService:
    """A predictor at work for many requests at a time, between `async with`.

    A batch begins when it is full, when no further image is being decoded, or when its first image has waited for the latency bound; while
    it is computed the next one collects. One thread computes, so that the predictor is never used twice at a time.
    """

    def __init__(self, predictor: Predictor, options: ServeOptions, metrics: Metrics) -> None:
        self.predictor, self.options, self.metrics = predictor, options, metrics
        self._waiting: deque[WaitingImage] = deque()
        self._decoding = 0
        self._changed = asyncio.Event()
        self._latency = options.latency_seconds
        self._decoders = ThreadPoolExecutor(physical_cores(), "decode")
        self._computer = ThreadPoolExecutor(1, "compute")

    async def __aenter__(self) -> Self:
        self._runner = asyncio.create_task(self._run_batches())
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._runner.cancel()
        for pool in (self._decoders, self._computer):
            pool.shutdown(wait=True, cancel_futures=True)

    async def predict(self, uploads: Sequence[Upload], top: int) -> list[Prediction]:
        """Predict what images show; one that cannot be read has a problem.

        Raises:
            Refusal: the queue is full, or shorter than this request.
        """
        queue, metrics = self.options.queue, self.metrics
        if len(uploads) > queue:
            raise Refusal(413, "too_many_images", f"Expected {count_of(queue, 'image')} or fewer a request, received {len(uploads):,}.")
        if metrics.images_under_way + len(uploads) > queue:
            raise Refusal(503, "queue_full", f"All {count_of(queue, 'place')} of the queue are taken: try again in a second.")
        metrics.images_under_way += len(uploads)
        try:
            predictions = await asyncio.gather(*(self._predict_one(upload, top) for upload in uploads))
        finally:
            metrics.images_under_way -= len(uploads)
        metrics.images += len(predictions)
        metrics.errors["broken_image"] += sum(bool(x.problem) for x in predictions)
        return predictions

    async def _predict_one(self, upload: Upload, top: int) -> Prediction:
        loop = asyncio.get_running_loop()
        self._decoding += 1
        try:
            decoded = await loop.run_in_executor(self._decoders, self._decode, upload.content)
        finally:
            self._decoding -= 1
            self._changed.set()
        if isinstance(decoded, BrokenImage):
            return self.predictor.describe(upload.name, decoded, top)
        image = WaitingImage(upload.name, top, decoded, loop.time(), loop.create_future())
        self._waiting.append(image)
        return await image.prediction

    def _decode(self, content: bytes) -> DecodedImage | BrokenImage:
        """Decode an image whose header says that it is not too large."""
        try:
            check_pixels(content, self.options.max_pixels)
        except BrokenImage as error:
            return error
        return self.predictor.decode(content)

    async def _run_batches(self) -> None:
        async for batch in self._batches():
            self.metrics.batch_images.observe(len(batch))
            try:
                predictions = await asyncio.get_running_loop().run_in_executor(self._computer, self._compute, batch)
            except Exception as error:  # whatever a model raises, those who wait are told, and the next batch goes on
                for image in batch:
                    if not image.prediction.done():
                        image.prediction.set_exception(error)
                continue
            for image, prediction in zip(batch, predictions, strict=True):
                if not image.prediction.done():  # as of a request that was cancelled
                    image.prediction.set_result(prediction)

    async def _batches(self) -> AsyncIterator[list[WaitingImage]]:
        while True:
            while not self._waiting:
                await self._wait_for_change()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout_at(self._waiting[0].since + self._latency):
                    while self._decoding and len(self._waiting) < self.options.batch:
                        await self._wait_for_change()
            yield [self._waiting.popleft() for _ in range(min(self.options.batch, len(self._waiting)))]

    async def _wait_for_change(self) -> None:
        self._changed.clear()
        await self._changed.wait()

    def _compute(self, batch: list[WaitingImage]) -> list[Prediction]:
        answers = self.predictor.answers([image.decoded for image in batch])
        return [self.predictor.describe(image.name, row, image.top) for image, row in zip(batch, answers, strict=True)]


def check_pixels(content: bytes, max_pixels: int) -> None:
    """Refuse an image by its header, before anything is decoded.

    Raises:
        BrokenImage: it is no image, or has more pixels.
    """
    layout = read_jpeg_layout(content)
    width, height = (layout.width, layout.height) if layout else open_image(io.BytesIO(content)).size
    if width * height > max_pixels:
        raise BrokenImage(f"{width} x {height} is more than {max_pixels:,} pixels, which this server does not decode")
