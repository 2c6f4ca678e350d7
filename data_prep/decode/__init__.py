"""One image file of any supported format to one greyscale radiograph."""

from data_prep.decode.decode import check_size, decode, read_bytes
from data_prep.decode.radiograph import DEFAULT_LIMITS, DecodeError, Limits, Radiograph

__all__ = ["DEFAULT_LIMITS", "DecodeError", "Limits", "Radiograph", "check_size", "decode", "read_bytes"]
