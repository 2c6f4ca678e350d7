"""Faults of columns beside the image and of T-scores: what is learned from whom, and what a missing value is."""

from tests.mutants.mutant import Mutant

_COLUMNS, _TRAIN = "osteojax/data/columns.py", "osteojax/train"
_OF_COLUMNS = ("tests/osteojax/data/test_columns.py",)
_OF_LAYERS = ("tests/osteojax/models/test_joined.py",)
_OF_RUNS = ("tests/osteojax/train/test_hybrid.py",)

HYBRID: tuple[Mutant, ...] = (
    Mutant(
        "hybrid: nobody is told that a value is missing",
        _COLUMNS,
        "[*values, *unknown]",
        "[*values, *(0 * one for one in unknown)]",
        _OF_COLUMNS,
    ),
    Mutant(
        "hybrid: a missing number is a number",
        _COLUMNS,
        "return np.where(np.isfinite(values), scaled, 0)",
        "return np.nan_to_num(scaled, nan=1.0)",
        _OF_COLUMNS,
    ),
    Mutant(
        "hybrid: a category that training has not counts as known",
        _COLUMNS,
        "[said not in self.categories for said in texts]",
        "[not said for said in texts]",
        _OF_COLUMNS,
    ),
    Mutant(
        "hybrid: a column that decides the label is taken",
        _COLUMNS,
        "if _separates(texts, np.asarray(labels)):",
        "if False:",
        _OF_COLUMNS,
    ),
    Mutant(
        "hybrid: statistics are fitted anew when a run goes on",
        f"{_TRAIN}/start.py",
        'record["origin"]["architecture"], Columns.of_record(record)',
        'record["origin"]["architecture"], Columns.fit(\n'
        "                source.identities(), experiment.model.covariates, source.labels()\n            )",
        _OF_RUNS,
    ),
    Mutant(
        "hybrid: statistics are those of validation",
        f"{_TRAIN}/start.py",
        "Columns.fit(source.identities(), names, source.labels()) if names",
        'Columns.fit((v := dataset.source("val")).identities(), names, v.labels()) if names',
        _OF_RUNS,
    ),
    Mutant(
        "hybrid: the columns of a batch are those of other examples",
        "osteojax/data/batches.py",
        "{name: values[indices] for name",
        "{name: values[indices[::-1]] for name",
        _OF_RUNS,
    ),
    Mutant(
        "hybrid: a value that was never missing in training counts as what was drawn",
        "osteojax/models/layers/joined.py",
        "self.first.kernel[...].at[inputs - columns :].set(0.0)",
        "self.first.kernel[...].at[inputs:].set(0.0)",
        _OF_LAYERS,
    ),
    Mutant(
        "hybrid: a file gets another file's row",
        "osteojax/predict/predict.py",
        "[self._covariates.of(name) for name in names]",
        "[self._covariates.of(name) for name in reversed(names)]",
        _OF_RUNS,
    ),
    Mutant(
        "hybrid: other columns go on where these were",
        f"{_TRAIN}/start.py",
        '"model.fallback", "model.covariates", "init"',
        '"model.fallback", "init"',
        _OF_RUNS,
    ),
    Mutant(
        "T-score: the limits are read from the wrong side",
        "osteojax/models/layers/t_score.py",
        "[log_ndtr(-z[:, :1]), between, log_ndtr(z[:, -1:])]",
        "[log_ndtr(z[:, -1:]), between, log_ndtr(-z[:, :1])]",
        _OF_LAYERS,
    ),
    Mutant(
        "T-score: a missing score is learned as nought",
        f"{_TRAIN}/t_score.py",
        "return jnp.where(known, jnp.square",
        "return jnp.where(True, jnp.square",
        _OF_LAYERS,
    ),
    Mutant(
        "T-score: sigma is free",
        f"{_TRAIN}/t_score.py",
        "/ 2 + log_sigma, 0.0)",
        "/ 2, 0.0)",
        _OF_LAYERS,
    ),
    Mutant(
        "T-score: the class is learned where only the score should be",
        f"{_TRAIN}/step.py",
        "if not recipe.reads_class:",
        "if recipe.reads_class:",
        _OF_RUNS,
    ),
    Mutant(
        "T-score: images that have none count in the error",
        "osteojax/metrics/t_score.py",
        "known = np.isfinite(measured)",
        "known, measured = np.ones(len(measured), bool), np.nan_to_num(measured)",
        ("tests/osteojax/metrics/test_t_score.py",),
    ),
    Mutant(
        "T-score: images of a patient are patients",
        "osteojax/metrics/t_score.py",
        "names = [name for name, one in zip(patients, known, strict=True) if one]",
        "names = [str(k) for k in np.flatnonzero(known)]",
        ("tests/osteojax/metrics/test_t_score.py",),
    ),
)
