"""What the processes of a run must find alike: an error of one is an error of all, and none is left waiting."""

import collections
import contextlib
from collections.abc import Iterator

import jax
import numpy as np
from jax.experimental import multihost_utils

from osteojax.errors import UserError

_LONGEST = 2048


@contextlib.contextmanager
def shared_errors() -> Iterator[None]:
    """A UserError that any process meets within is raised in all of them, with the number of the process.

    All processes must come here. Communication within would wait for the one that failed: keep it outside.
    """
    message = ""
    try:
        yield
    except UserError as error:
        if jax.process_count() == 1:
            raise
        message = str(error)
    if jax.process_count() == 1:
        return
    failed = [(process, text) for process, text in enumerate(gather_texts(message)) if text]
    if failed:
        process, text = failed[0]
        others = f" (and {len(failed) - 1} more)" if len(failed) > 1 else ""
        raise UserError(f"process {process}{others}: {text}")


def check_even_devices() -> None:
    """Raises UserError where the processes do not all have as many devices; needs no communication."""
    counts = collections.Counter(device.process_index for device in jax.devices())
    if len(set(counts.values())) > 1:
        told = ", ".join(f"process {process}: {count}" for process, count in sorted(counts.items()))
        raise UserError(
            f"the processes do not have equally many devices ({told}); give each the same number, or leave hosts out"
        )


def gather_texts(text: str) -> list[str]:
    """The text of each process, cut after 2,048 bytes."""
    if jax.process_count() == 1:
        return [text]
    row = np.zeros(_LONGEST, np.uint8)
    encoded = np.frombuffer(text.encode()[:_LONGEST], np.uint8)
    row[: len(encoded)] = encoded
    rows = np.asarray(multihost_utils.process_allgather(row))
    return [bytes(one).rstrip(b"\0").decode(errors="ignore") for one in rows]


def from_first(text: str) -> str:
    """The text of process 0, of any length."""
    if jax.process_count() == 1:
        return text
    encoded = np.frombuffer(text.encode(), np.uint8)
    length = int(multihost_utils.broadcast_one_to_all(np.int32(len(encoded))))
    row = encoded if jax.process_index() == 0 else np.zeros(length, np.uint8)
    return bytes(np.asarray(multihost_utils.broadcast_one_to_all(row))).decode()


def any_process(flag: bool) -> bool:
    """Whether it holds for one of them."""
    if jax.process_count() == 1:
        return flag
    return bool(np.asarray(multihost_utils.process_allgather(np.int32(flag))).any())
