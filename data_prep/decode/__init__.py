"""One image file of any supported format to one greyscale radiograph."""

from data_prep.decode.decode import decode, read_bytes
from data_prep.decode.radiograph import DEFAULT_LIMITS, DecodeError, Limits, Radiograph

__all__ = ["DEFAULT_LIMITS", "DecodeError", "Limits", "Radiograph", "decode", "read_bytes"]
