"""Faults of data preparation."""

from tests.mutants.mutant import Mutant

PREPARATION: tuple[Mutant, ...] = ()
