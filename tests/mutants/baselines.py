"""Faults of the baselines: who learns from what, and what a feature means."""

from tests.mutants.mutant import Mutant

_FIT, _SOURCES = "osteojax/baselines/fit.py", "osteojax/baselines/sources"
_TESTS = "tests/osteojax/baselines"

BASELINES: tuple[Mutant, ...] = (
    Mutant(
        "baselines: a row learns from what it is tested on",
        _FIT,
        "search.fit(features.values[learn], labels, groups=groups, **given)",
        "search.fit(features.values, images.labels, groups=images.groups, **given)",
        (f"{_TESTS}/test_fit.py",),
    ),
    Mutant(
        "baselines: settings are chosen with a patient on both sides",
        _FIT,
        "groups=groups, **given)",
        "groups=np.arange(len(learn)), **given)",
        (f"{_TESTS}/test_fit.py",),
    ),
    Mutant(
        "baselines: validation images are not learned from",
        _FIT,
        'images.places(deal, "train", "val")',
        'images.places(deal, "train")',
        (f"{_TESTS}/test_fit.py",),
    ),
    Mutant(
        "baselines: a difference is the baseline's to the row",
        _FIT,
        "bootstrapped(values - drawn[asked.baseline])",
        "bootstrapped(drawn[asked.baseline] - values)",
        (f"{_TESTS}/test_fit.py",),
    ),
    Mutant(
        "baselines: the mark of a leaky split is lost",
        _FIT,
        "leaky.KEY: dataset.mark,",
        "leaky.KEY: None,",
        (f"{_TESTS}/test_fit.py",),
    ),
    Mutant(
        "baselines: that a number is missing is not said",
        "osteojax/baselines/classifiers/logistic.py",
        "add_indicator=True",
        "add_indicator=False",
        (f"{_TESTS}/test_fit.py",),
    ),
    Mutant(
        "baselines: a category is a number",
        f"{_SOURCES}/covariates.py",
        "for said in texts]), True",
        "for said in texts]), False",
        (f"{_TESTS}/test_sources.py",),
    ),
    Mutant(
        "baselines: an unknown sex is a sex",
        "osteojax/data/columns.py",
        '"n/a", "unknown")',
        '"n/a")',
        (f"{_TESTS}/test_sources.py",),
    ),
    Mutant(
        "baselines: the slope of the spectrum counts twice",
        f"{_SOURCES}/texture.py",
        "float(4 + slope / 2)",
        "float(4 + slope)",
        (f"{_TESTS}/test_sources.py",),
    ),
    Mutant(
        "baselines: parts are taken column by column",
        f"{_SOURCES}/texture.py",
        "for row in np.array_split(image, grid) for part in np.array_split(row, grid, axis=1)",
        "for row in np.array_split(image, grid)[::-1] for part in np.array_split(row, grid, axis=1)",
        (f"{_TESTS}/test_sources.py",),
    ),
    Mutant(
        "baselines: a slanted shaft's cortex is as thick as the row is long",
        f"{_SOURCES}/cortex.py",
        "/ np.hypot(1, np.polyfit(height, outer, 1)[0])",
        "/ 1.0",
        (f"{_TESTS}/test_cortex.py",),
    ),
    Mutant(
        "baselines: the tibia's shaft is sought at the joint",
        f"{_SOURCES}/cortex.py",
        "slice(None, joint, -1)",
        "slice(joint, None)",
        (f"{_TESTS}/test_cortex.py",),
    ),
    Mutant(
        "baselines: the cortex ends at its peak",
        f"{_SOURCES}/cortex.py",
        "(marrow + peak) / 2",
        "peak",
        (f"{_TESTS}/test_cortex.py",),
    ),
    Mutant(
        "baselines: a run of ours is taken for published weights",
        f"{_SOURCES}/embedding.py",
        "if transfer.is_run(experiment.weights):",
        "if False:",
        (f"{_TESTS}/test_sources.py",),
    ),
    Mutant(
        "baselines: of all examples those of a split are missing",
        "osteojax/data/dataset.py",
        "names = tuple(name for name, count in self._stored.items() if count)",
        "names = tuple(name for name, count in self._stored.items() if count)[:1]",
        (f"{_TESTS}/test_sources.py",),
    ),
    Mutant(
        "baselines: the deviation of a number is that of the fit itself",
        "osteojax/baselines/classifiers/thresholded.py",
        "target - cross_val_predict(model, x, target, cv=folds)",
        "target - model.fit(x, target).predict(x) * 0.5 - target * 0.5",
        (f"{_TESTS}/test_fit.py",),
    ),
    Mutant(
        "baselines: images without the number are learned from",
        _FIT,
        "with_number = np.isfinite(target[learn])",
        "with_number = np.ones(len(learn), bool)",
        (f"{_TESTS}/test_fit.py",),
    ),
    Mutant(
        "baselines: age is lost among the features of a network",
        "osteojax/baselines/classifiers/logistic.py",
        "weights[name] = 1 / np.sqrt(mine.sum())",
        "weights[name] = 1.0",
        (f"{_TESTS}/test_fit.py",),
    ),
    Mutant(
        "baselines: folds that share a patient are believed",
        _FIT,
        "dataset.check_divides_nobody()",
        "pass",
        (f"{_TESTS}/test_fit.py",),
    ),
)
