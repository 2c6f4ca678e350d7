"""Tensors of a weights file, described before they are read.

A file is untrusted: what it claims is compared with what the architecture needs first, and only tensors
that fit are ever read into memory.
"""

import dataclasses
from collections.abc import Callable, Mapping

import numpy as np


@dataclasses.dataclass(frozen=True)
class StoredTensor:
    """One tensor of a file.

    Attributes:
        shape: as the file states it.
        dtype: the file's name for the element type, for messages.
        is_float: whether it is a floating-point type.
        read: reads the values as float32. What it raises where the file is damaged is its format's own affair;
            `osteojax.weights.formats.registry.read` turns all of it into `UserError`.
    """

    shape: tuple[int, ...]
    dtype: str
    is_float: bool
    read: Callable[[], np.ndarray]


Tensors = Mapping[str, StoredTensor]
