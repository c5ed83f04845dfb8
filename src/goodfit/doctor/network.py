"""What a network is made of, read from the operations of one pass: its weights in order, how deep it is, what carries its signal."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

from goodfit.inspection.operations import Operation
from goodfit.inspection.preflight import LayerSigns, Preflight

DEFAULT_GAIN = 3**-0.5  # of torch's own initialization: standard deviation times the root of fan-in
HE_GAIN = 2**0.5
MIN_NORMED = 0.02  # root mean square below which a norm's epsilon keeps it from scaling up


@dataclasses.dataclass(frozen=True)
class Network:
    """A network's weights in the order in which they ran: `weights` what they did, `layers` how they start, `places` where they stand among
    the operations. The last is its head.
    """

    operations: tuple[Operation, ...]
    weights: tuple[Operation, ...]
    layers: tuple[LayerSigns, ...]
    places: tuple[int, ...]

    @classmethod
    def of(cls, preflight: Preflight) -> Network:
        """Read the operations of a preflight."""
        signs = {layer.name: layer for layer in preflight.layers}
        found = [(i, o) for i, o in enumerate(preflight.operations) if o.kind == "weights" and o.weight in signs and o.flow is not None]
        weights = tuple(o for _, o in found)
        return cls(preflight.operations, weights, tuple(signs[o.weight] for o in weights), tuple(i for i, _ in found))

    @property
    def head(self) -> Operation:
        return self.weights[-1]

    @property
    def hidden(self) -> tuple[LayerSigns, ...]:
        """The weights but for the head."""
        return self.layers[:-1]

    @property
    def depth(self) -> int:
        """How many weights lie on the longest way to the scores."""
        return self.head.flow.longest if self.weights and self.head.flow else 0

    @property
    def shortest(self) -> int:
        """How many weights lie on the shortest way to the scores."""
        return self.head.flow.shortest if self.weights and self.head.flow else 0

    @property
    def bends(self) -> int:
        """How many nonlinearities a signal passes on its way to the head; norms and max-pools do not count."""
        return self.head.flow.bends if self.weights and self.head.flow else 0

    @property
    def signal(self) -> float:
        """How much what enters the head differs between images, as a root mean square; NaN where that was not seen."""
        entering = self.head.entering if self.weights else None
        return entering.rms * entering.difference if entering else math.nan

    @property
    def norms(self) -> list[Operation]:
        return [o for o in self.operations if o.kind == "norm"]

    @property
    def activations(self) -> list[Operation]:
        """The activations of the hidden layers that were measured."""
        last = self.places[-1] if self.places else 0
        return [o for o in self.operations[:last] if o.kind == "activation" and o.leaving is not None]

    def gains_without_norm(self) -> list[float]:
        """The gains of the hidden weights whose scale no later norm takes away."""
        return [layer.gain for layer, place in zip(self.hidden, self.places, strict=False) if not self._is_normed(place)]

    @property
    def gradient_ratio(self) -> float:
        """The gradient of the first hidden weights over that of the last, each times the norm of the weights: medians of some.

        Of a network that is homogeneous between its weights, as by ReLU or with norms, this product is about the same for all of them,
        however large they are. Weights with no gradient at all, as behind a head at zero, are left out; NaN where few are left.
        """
        products = [layer.gradient * layer.norm**2 for layer in self.hidden if layer.gradient > 0]
        n = max(len(products) // 4, 1)
        return median(products[:n]) / median(products[-n:]) if len(products) > 1 else math.nan

    @property
    def is_bounded(self) -> bool:
        """Whether most activations of the hidden layers are sigmoids or hyperbolic tangents."""
        return sum(o.is_bounded for o in self.activations) > 0.5 * len(self.activations)

    def _is_normed(self, place: int) -> bool:
        return any(o.kind == "norm" and o.entering is not None and o.entering.rms > MIN_NORMED for o in self.operations[place + 1 :])


def median(numbers: Sequence[float]) -> float:
    """The median of some numbers, or the mean of the two in the middle."""
    ordered = sorted(numbers)
    n = len(ordered)
    return (ordered[(n - 1) // 2] + ordered[n // 2]) / 2 if n else math.nan


def geometric_mean(numbers: Sequence[float]) -> float:
    """The geometric mean of some numbers above zero."""
    return math.exp(sum(math.log(max(x, 1e-30)) for x in numbers) / len(numbers)) if numbers else math.nan
