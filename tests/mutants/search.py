"""Faults of searches."""

from tests.mutants.mutant import Mutant

_TESTS = ("tests/osteojax/sweep/test_search.py",)
_SEARCH = "osteojax/sweep/search.py"

SEARCH: tuple[Mutant, ...] = (
    Mutant(
        "search: the test split is what is searched for",
        _SEARCH,
        'key = f"{config.eval.split}/{self._found.metric}"',
        'key = f"test/{self._found.metric}"',
        _TESTS,
    ),
    Mutant(
        "search: the last evaluation counts, not the best",
        _SEARCH,
        "found.append(better(value, found[-1]) if found else float(value))",
        "found.append(float(value))",
        _TESTS,
    ),
    Mutant(
        "search: every metric is better large",
        _SEARCH,
        'direction="maximize" if found.direction == "max" else "minimize"',
        'direction="maximize"',
        _TESTS,
    ),
    Mutant(
        "search: poor trials run to their end",
        _SEARCH,
        "pruned = bool(report()) and validates == folds.NONE and trial.should_prune()",
        "report()",
        _TESTS,
    ),
    Mutant(
        "search: what was interrupted is forgotten",
        _SEARCH,
        "self._study.enqueue_trial(left.params)",
        "pass",
        _TESTS,
    ),
    Mutant(
        "search: a search that is started again draws the same again",
        _SEARCH,
        "self._study.sampler = _sampler(self._seed, len(self._study.get_trials(deepcopy=False)))",
        "pass",
        _TESTS,
    ),
    Mutant(
        "search: all folds are searched on the first",
        _SEARCH,
        "tested = self._tested._replace(validates=validates)",
        "tested = self._tested._replace(fold=min(self._tested.fold, 0), validates=validates)",
        _TESTS,
    ),
    Mutant(
        "search: folds share one study",
        _SEARCH,
        'name = "-".join((found.name, *tested.folder.parts))',
        "name = found.name",
        _TESTS,
    ),
)
