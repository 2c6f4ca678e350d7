"""Rows of a picture a band at a time: what is computed on the way is then never as large as a large picture."""

from collections.abc import Iterator

_PIXELS = 2**20


def bands(height: int, width: int) -> Iterator[slice]:
    """Bands of rows that together are all rows, of about a million pixels each, in order."""
    rows = max(1, _PIXELS // max(1, width))
    return (slice(top, min(top + rows, height)) for top in range(0, height, rows))
