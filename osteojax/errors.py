"""The one exception for what a user can mend, and what may be told of all others."""

import traceback


class UserError(Exception):
    """A mistake in the input, not in the program: the message says what is wrong, where, and what to do.

    The command line prints the message as one line and exits with a non-zero status; a traceback is only ever
    shown for a defect of the program itself.
    """


def untold(error: BaseException) -> str:
    """An exception without its message, which may quote what a file holds: its type, and where it was raised."""
    frames = traceback.extract_tb(error.__traceback__)
    places = (f"{frame.filename}:{frame.lineno} in {frame.name}" for frame in reversed(frames))
    return f"{type(error).__name__} at {', called from '.join(places) or 'an unknown place'}"
