"""A fault put in on purpose, and the tests that must notice it."""

import dataclasses


@dataclasses.dataclass(frozen=True)
class Mutant:
    """One fault.

    Attributes:
        name: what is wrong, in a few words.
        file: where, from the project's root.
        old: text that stands there exactly once.
        new: what takes its place.
        tests: pytest node ids or files, one of which must fail.
    """

    name: str
    file: str
    old: str
    new: str
    tests: tuple[str, ...]
