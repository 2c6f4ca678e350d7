"""Pseudonyms by a keyed hash, and the key: named by the user and never stored, or random and of one preparation."""

import hashlib
import hmac
import os
from pathlib import Path

from osteojax.errors import UserError

ENVIRONMENT = "OSTEOJAX_PRIVACY_KEY"
"""The variable that holds the key where no file is named."""
_FEWEST_BYTES = 16
_MOST_BYTES = 2**16


def named_key(file: str) -> bytes | None:
    """The key that the user names, without white space at its ends: of the file, else of the variable `ENVIRONMENT`.

    Args:
        file: its path; "" for none.

    Returns:
        The key; None where none is named.

    Raises:
        UserError: the file does not read, or the key has less than 16 bytes, or more than any key has.
    """
    if file:
        where = f"privacy.key_file={file}"
        try:
            with Path(file).open("rb") as stream:
                key = stream.read(_MOST_BYTES + 1)
        except (OSError, ValueError) as error:
            reason = getattr(error, "strerror", None) or "it is no path"
            raise UserError(f"{where} cannot be read: {reason}") from None
    elif ENVIRONMENT in os.environ:
        where, key = f"the variable {ENVIRONMENT}", os.environb[ENVIRONMENT.encode()]
    else:
        return None
    key = key.strip()
    if not _FEWEST_BYTES <= len(key) <= _MOST_BYTES:
        raise UserError(
            f"{where} holds a key of {len(key)} bytes; {_FEWEST_BYTES} to {_MOST_BYTES} are needed, as of "
            "`openssl rand -hex 32`"
        )
    return key


def pseudonym(key: bytes, kind: str, text: str) -> str:
    """A hash (HMAC-SHA-256, RFC 2104, in hex) of a text that nobody without the key can guess the text by.

    Args:
        key: of one preparation, or of several whose pseudonyms are to agree.
        kind: of text; equal texts of two kinds have two pseudonyms.
        text: what is not to be told.
    """
    content = f"{kind}\0{text}".encode("utf-8", "surrogateescape")
    return hmac.digest(key, content, hashlib.sha256).hex()
