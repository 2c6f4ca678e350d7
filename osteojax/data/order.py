"""The order in which examples are shown, a whole epoch at a time.

`Shuffled` is grain's `MapDataset.range(n).seed(seed).shuffle()` to the number, so that a run of an earlier release
goes on in its order (but for n = 4**w + 1 with w >= 8, where grain's shows one example of an epoch twice and one
never). grain finds each place anew by walking through 65,536 numbers or more: with a hundred examples that takes a
millisecond for each, more than a head takes to learn from it.
"""

import functools
import math
from typing import Any, Protocol

import numpy as np

_ROUNDS = 4


class Order(Protocol):
    """The examples of a split one after the other, without an end."""

    def __len__(self) -> int:
        """Length of an epoch."""
        ...

    def __getitem__(self, places: Any) -> Any:
        """Numbers of the examples at these places: a number, or an array of integers in any shape."""
        ...


class InOrder:
    """The order of the split."""

    def __init__(self, examples: int) -> None:
        self._examples = examples

    def __len__(self) -> int:
        """See `Order`."""
        return self._examples

    def __getitem__(self, places: Any) -> Any:
        """See `Order`."""
        return places % self._examples


class Shuffled:
    """Each epoch is one permutation, a function of (seed, epoch).

    Args:
        examples: of the split.
        seed: not negative.
    """

    def __init__(self, examples: int, seed: int) -> None:
        self._examples = examples
        # As grain seeds a shuffle that stands one transformation behind its `seed`.
        first = int(np.random.SeedSequence((seed, 1)).generate_state(1)[0])
        # Two: threads that read ahead are in two epochs at once.
        self._epoch = functools.lru_cache(2)(lambda epoch: permutation(examples, (first + epoch) % 2**32))

    def __len__(self) -> int:
        """See `Order`."""
        return self._examples

    def __getitem__(self, places: Any) -> Any:
        """See `Order`."""
        epochs, within = np.divmod(places, self._examples)
        found = np.empty(np.shape(places), np.int64)
        for epoch in np.unique(epochs):
            here = epochs == epoch
            found[here] = self._epoch(int(epoch))[within[here]]
        return found[()]


def permutation(examples: int, seed: int) -> np.ndarray:
    """One permutation of the numbers below `examples`: (examples,) int64.

    That of a block cipher, a Feistel network of four rounds of SIMON (Beaulieu et al. 2013, eprint 2013/404), over the
    smallest domain of 2**(2 w) numbers that holds them and has words of w >= 8 bits; who lands outside walks on until
    it is inside (Black and Rogaway 2002, "Ciphers with arbitrary finite domains").
    """
    word = max(8, math.ceil((examples - 1).bit_length() / 2))
    target = _enciphered(word, _round_keys(seed)).tolist()
    order = np.empty(examples, np.int64)
    for start in range(examples):
        at = target[start]
        while at >= examples:
            at = target[at]
        order[start] = at
    return order


def _enciphered(word: int, keys: list[int]) -> np.ndarray:
    """All numbers of two words under the cipher, (4**word,); of a round's key counts what goes into a word."""
    words = np.arange(2**word)

    def rotated(by: int) -> np.ndarray:
        return ((words << by) | (words >> (word - by))) % 2**word

    mixed = (rotated(1) & rotated(8)) ^ rotated(2)
    left, right = np.divmod(np.arange(4**word), 2**word)
    for key in keys:
        left, right = right, left ^ (mixed ^ key % 2**word)[right]
    return left * 2**word + right


def _round_keys(seed: int) -> list[int]:
    """What C++'s `std::seed_seq{seed}` generates (ISO C++ [rand.util.seedseq]) for four numbers of 32 bits."""
    bits = 0xFFFFFFFF
    state = [0x8B8B8B8B] * _ROUNDS

    def twisted(x: int) -> int:
        return (x ^ (x >> 27)) & bits

    for k in range(_ROUNDS):
        here, ahead, after = k, (k + 1) % _ROUNDS, (k + 2) % _ROUNDS
        first = 1664525 * twisted(state[here] ^ state[ahead] ^ state[k - 1]) & bits
        second = first + (1 if k == 0 else k + seed if k == 1 else k)
        state[ahead] = (state[ahead] + first) & bits
        state[after] = (state[after] + second) & bits
        state[here] = second & bits
    for k in range(_ROUNDS):
        here, ahead, after = k, (k + 1) % _ROUNDS, (k + 2) % _ROUNDS
        third = 1566083941 * twisted((state[here] + state[ahead] + state[k - 1]) & bits) & bits
        fourth = (third - k) & bits
        state[ahead] ^= third
        state[after] ^= fourth
        state[here] = fourth
    return state
