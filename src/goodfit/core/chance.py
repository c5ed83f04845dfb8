"""Chance as a function: every random number of the data path is a hash of where it is used, so nothing has to be remembered."""

from __future__ import annotations

import dataclasses
import zlib

import torch
from torch import Tensor

MASK64 = (1 << 64) - 1
GOLDEN = 0x9E3779B97F4A7C15
MIX64_FIRST, MIX64_SECOND = 0xBF58476D1CE4E5B9, 0x94D049BB133111EB
MIXING_BLOCK = 16  # mixing partners come from blocks of this many consecutive places of the logical batch


def _signed(x: int) -> int:
    return x - (1 << 64) if x >> 63 else x


def mix64(x: int) -> int:
    """SplitMix64's finalizer on a 64-bit number (Steele, Lea & Flood 2014)."""
    x = ((x ^ (x >> 30)) * MIX64_FIRST) & MASK64
    x = ((x ^ (x >> 27)) * MIX64_SECOND) & MASK64
    return x ^ (x >> 31)


def mix64_tensor(x: Tensor) -> Tensor:
    """`mix64` on an int64 tensor: right shifts are masked, products wrap, so CPU and CUDA agree bit for bit."""
    x = (x ^ ((x >> 30) & ((1 << 34) - 1))) * _signed(MIX64_FIRST)
    x = (x ^ ((x >> 27) & ((1 << 37) - 1))) * _signed(MIX64_SECOND)
    return x ^ ((x >> 31) & ((1 << 33) - 1))


def fold(key: int, *words: int | str) -> int:
    """A new 64-bit key from `key` and words (text by CRC-32, numbers as they are)."""
    for word in words:
        number = zlib.crc32(word.encode()) + (1 << 32) if isinstance(word, str) else word
        key = mix64((key + GOLDEN * (mix64(number & MASK64) | 1)) & MASK64)
    return key


@dataclasses.dataclass(frozen=True)
class Chance:
    """Random numbers for the places of a batch, as a pure function of (key, place).

    `key` folds the seed, the purpose and its position in the pipe, the epoch and the view; `places` [B] int64 are positions in the
    epoch's order. The same places draw the same numbers in any batch, piece, worker, rank or resumed run.

    `epoch` counts from 0. `per_image` is keyed by image id instead of place, so it draws the same numbers for an image in every epoch;
    it is None where the images are not known.
    """

    key: int
    places: Tensor
    epoch: int = 0
    per_image: Chance | None = None

    @staticmethod
    def for_epoch(seed: int, purpose: str, epoch: int, places: Tensor, ids: Tensor) -> Chance:
        """The chance for a purpose at `places` [B] of an epoch, where the images with these `ids` [B] stand."""
        key = Chance.of(seed, places, purpose, epoch).key
        return Chance(key, places, epoch, Chance.of(seed, ids, purpose))

    @staticmethod
    def of(seed: int, places: Tensor, *words: int | str) -> Chance:
        """The chance of `seed` at `places`, for a purpose named by `words`."""
        return Chance(fold(seed & MASK64, *words), places)

    def __getitem__(self, rows: slice | Tensor) -> Chance:
        """The chance of some of the places."""
        return Chance(self.key, self.places[rows], self.epoch, None if self.per_image is None else self.per_image[rows])

    def at(self, *words: int | str) -> Chance:
        """An independent chance for a named purpose: `chance.at("flip", 2)`."""
        per_image = None if self.per_image is None else self.per_image.at(*words)
        return Chance(fold(self.key, *words), self.places, self.epoch, per_image)

    def bits(self, n: int = 1) -> Tensor:
        """64 random bits as int64 [B, n]."""
        rows = mix64_tensor(self.places * _signed(GOLDEN) + _signed(self.key))
        columns = torch.arange(1, n + 1, device=rows.device) * _signed(fold(self.key, "column") | 1)
        return mix64_tensor(rows[:, None] + columns)

    def uniform(self, low: float = 0.0, high: float = 1.0, n: int | None = None) -> Tensor:
        """float32 in [low, high), [B] or [B, n]; 24 random bits each."""
        draws = ((self.bits(n or 1) >> 40) & 0xFFFFFF).float() * 2.0**-24
        draws = draws * (high - low) + low
        return draws if n else draws[:, 0]

    def double(self, n: int | None = None) -> Tensor:
        """float64 in (0, 1), never an end, [B] or [B, n]; 52 random bits each."""
        draws = (((self.bits(n or 1) >> 12) & ((1 << 52) - 1)).double() + 0.5) * 2.0**-52
        return draws if n else draws[:, 0]

    def normal(self, mean: float = 0.0, std: float = 1.0, n: int | None = None) -> Tensor:
        """float32 normal numbers, [B] or [B, n], by the inverse of the distribution function."""
        standard: Tensor = torch.special.ndtri(self.double(n))
        return (standard * std + mean).float()

    def beta(self, a: float, b: float) -> Tensor:
        """float32 numbers of Beta(a, b), [B], by the inverse of the distribution function."""
        from scipy.special import betaincinv

        return torch.from_numpy(betaincinv(a, b, self.double().cpu().numpy())).float()

    def integers(self, low: int, high: int, n: int | None = None) -> Tensor:
        """int64 in [low, high), [B] or [B, n]; the bias is below (high - low) / 2^32."""
        draws = ((self.bits(n or 1) >> 32) & 0xFFFFFFFF) * (high - low) >> 32
        return (draws if n else draws[:, 0]) + low

    def chosen(self, p: float) -> Tensor:
        """bool [B]: true with probability p."""
        return self.uniform() < p

    def permutation(self) -> Tensor:
        """A random order of the places, as indices [B]."""
        return torch.argsort(self.bits()[:, 0], stable=True)

    def partners(self, block: int = MIXING_BLOCK) -> Tensor:
        """For each place the index [B] of its partner: a permutation within every block of `block` consecutive places."""
        n = len(self.places)
        rows = -(-n // block)
        keys = torch.full((rows * block,), torch.iinfo(torch.int64).max, device=self.places.device)
        keys[:n] = self.bits()[:, 0] >> 1
        order = torch.argsort(keys.view(rows, block), dim=1, stable=True)
        return (order + torch.arange(rows, device=keys.device)[:, None] * block).flatten()[:n]
