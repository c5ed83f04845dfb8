"""What a server counts, in the text format of Prometheus."""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Iterator, Sequence

SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)  # upper bounds of the buckets of latency
BATCH_SIZES = (1, 2, 4, 8, 16, 32, 64, 128, 256)


class Histogram:
    """Counts of values by buckets, each with an upper bound, and their sum."""

    def __init__(self, bounds: Sequence[float]) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.sum = 0.0

    def observe(self, value: float) -> None:
        """Count a value."""
        self.counts[bisect_left(self.bounds, value)] += 1
        self.sum += value

    def lines(self, name: str) -> Iterator[str]:
        """Its lines of text, whose buckets are cumulative."""
        total = 0
        for bound, count in zip((*map(str, self.bounds), "+Inf"), self.counts, strict=True):
            total += count
            yield f'{name}_bucket{{le="{bound}"}} {total}'
        yield f"{name}_sum {self.sum!r}"
        yield f"{name}_count {total}"


class Metrics:
    """The counts of one server; all of them change in the thread of its event loop alone."""

    def __init__(self) -> None:
        self.requests: Counter[tuple[str, int]] = Counter()  # by path and status
        self.errors: Counter[str] = Counter()  # by kind
        self.images = 0
        self.images_under_way = 0
        self.request_seconds = Histogram(SECONDS)
        self.batch_images = Histogram(BATCH_SIZES)

    def to_text(self) -> str:
        """The page that Prometheus reads."""
        return "\n".join([
            *_describe("goodfit_requests_total", "counter", "Requests answered, by path and HTTP status."),
            *(f'goodfit_requests_total{{path="{path}",status="{code}"}} {n}' for (path, code), n in sorted(self.requests.items())),
            *_describe("goodfit_images_total", "counter", "Images answered."),
            f"goodfit_images_total {self.images}",
            *_describe("goodfit_errors_total", "counter", "Requests, images and connections refused or failed, by kind."),
            *(f'goodfit_errors_total{{kind="{kind}"}} {n}' for kind, n in sorted(self.errors.items())),
            *_describe("goodfit_queue_images", "gauge", "Images under way: being decoded, waiting, being computed."),
            f"goodfit_queue_images {self.images_under_way}",
            *_describe("goodfit_request_seconds", "histogram", "Seconds from the headers of a prediction request to its answer."),
            *self.request_seconds.lines("goodfit_request_seconds"),
            *_describe("goodfit_batch_images", "histogram", "Images computed together."),
            *self.batch_images.lines("goodfit_batch_images"),
            "",
        ])  # fmt: skip


def _describe(name: str, kind: str, text: str) -> tuple[str, str]:
    return f"# HELP {name} {text}", f"# TYPE {name} {kind}"
