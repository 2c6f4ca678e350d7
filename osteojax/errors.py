"""The one exception for what a user can mend."""


class UserError(Exception):
    """A mistake in the input, not in the program: the message says what is wrong, where, and what to do.

    The command line prints the message as one line and exits with a non-zero status; a traceback is only ever
    shown for a defect of the program itself.
    """
