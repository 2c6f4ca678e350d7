"""Operations that are written otherwise for CPU than for accelerators."""

import contextlib
import contextvars
from collections.abc import Callable, Iterator
from typing import Any

from jax import lax

_portable: contextvars.ContextVar[bool] = contextvars.ContextVar("portable", default=False)


def by_platform(
    *operands: Any, cpu: Callable[..., Any], default: Callable[..., Any], portable: Callable[..., Any]
) -> Any:
    """The formulation of the platform that the program is lowered for; within `portable_formulations`, `portable`."""
    if _portable.get():
        return portable(*operands)
    return lax.platform_dependent(*operands, cpu=cpu, default=default)


@contextlib.contextmanager
def portable_formulations() -> Iterator[None]:
    """What is traced within has no branch on the platform, and only operations that converters to ONNX know."""
    token = _portable.set(True)
    try:
        yield
    finally:
        _portable.reset(token)
