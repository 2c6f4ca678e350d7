"""Simple classifiers on a prepared dataset, beside one another: each tested on images that it learned nothing from."""

import dataclasses
import json
import logging
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import ml_collections
import numpy as np
from sklearn.exceptions import ConvergenceWarning
from sklearn.model_selection import GridSearchCV, StratifiedGroupKFold
from threadpoolctl import threadpool_limits

import osteojax.baselines.classifiers
import osteojax.baselines.sources  # noqa: F401  both fill their registries
from osteojax import config as configs
from osteojax import leaky
from osteojax.baselines.classifiers.registry import CLASSIFIERS, REGRESSES
from osteojax.baselines.sources.covariates import Covariates, covariates
from osteojax.baselines.sources.registry import SOURCES, Table, together
from osteojax.config import Bound
from osteojax.data.dataset import Example, PreparedDataset, Split
from osteojax.errors import UserError
from osteojax.files import disk_errors, write_atomically
from osteojax.metrics.difference import bootstrapped, holm
from osteojax.metrics.registry import scalar
from osteojax.metrics.sample import Sample
from osteojax.metrics.score import score_sample
from osteojax.progress import progress
from osteojax.run.predictions import text, write_predictions

log = logging.getLogger(__name__)

TEST = "test"
_SMALLEST = 1e-7  # of a probability


@dataclasses.dataclass(frozen=True)
class RowSection:
    """One row of the comparison.

    Attributes:
        sources: of its features, side by side.
        classifier: that learns from them.
        target: column whose number is learned in place of the class, by a classifier that reads the class from it.
    """

    sources: tuple[str, ...]
    classifier: str = "logistic"
    target: str = ""


@dataclasses.dataclass(frozen=True)
class Baselines:
    """The config, as in configs/baselines/.

    Attributes:
        rows: by name.
        baseline: the row that differences are to.
        metric: what the table shows.
        balanced: whether classes count alike, or images do.
        inner_folds: by which a classifier's settings are chosen within its training images.
        seed: of the inner folds, and of what a classifier draws.
        settings: of the sources and classifiers, by name.
    """

    rows: Mapping[str, RowSection]
    baseline: str
    metric: str = "balanced_accuracy"
    balanced: bool = True
    inner_folds: Annotated[int, Bound(low=2)] = 5
    seed: int = 0
    settings: Mapping[str, Any] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Found:
    """What came of one row.

    Attributes:
        name: of the row.
        metrics: as metrics.json has them.
        difference: of the table's metric to the baseline: value, low, high and p-value corrected by Holm; None for the
            baseline itself.
    """

    name: str
    metrics: dict[str, Any]
    difference: tuple[float | None, float | None, float | None, float | None] | None


def fit_baselines(config: ml_collections.ConfigDict, data_dir: str | Path, out: Path) -> list[Found]:
    """Fits every row, tests it, and writes `OUT/ROW/eval/test/` as `osteojax evaluate` does.

    A row learns from the training and validation images and is tested on the test images; on a dataset of folds, once
    for each, so that every image is tested once. Its settings are chosen by cross-validation within the training
    images (log-likelihood), whole groups held out.

    Args:
        config: of `Baselines`.
        data_dir: prepared dataset.
        out: folder to write to.

    Returns:
        The rows: the baseline, then the others by name.

    Raises:
        UserError: a config, dataset or source that does not fit; one sentence that says what to do.
    """
    asked = read_baselines(config)
    dataset = PreparedDataset.open(data_dir)
    deals = [dataset.for_fold(fold) for fold in range(dataset.folds)] or [dataset]
    dataset.check_divides_nobody()  # of folds: no two of them, so no deal either
    everything = dataset.everything()
    images = _Images.of(everything, dataset.class_names)
    parts = [(images.places(deal, "train", "val"), images.places(deal, TEST)) for deal in deals]
    tested = np.concatenate([test for _, test in parts])
    examples = [images.identities[at] for at in tested]
    tables = {
        name: SOURCES.bind(name, {}, asked.settings.get(name, {}), f"settings.{name}")(everything)
        for name in dict.fromkeys(name for row in asked.rows.values() for name in row.sources)
    }

    samples, records = {}, {}
    with progress("fitting", len(asked.rows) * len(parts)) as advance:
        for name, row in asked.rows.items():
            features = together([tables[source] for source in row.sources])
            if row.target in features.names:
                raise UserError(
                    f"rows.{name}: its target {row.target!r} is among its features; name the columns that it may know "
                    "with --config.settings.covariates.columns"
                )
            target = covariates(everything, Covariates((row.target,))).values[:, 0] if row.target else None
            fitted = []
            for learn, _ in parts:
                fitted.append(_fit(name, asked, features, images, learn, target))
                advance()
            logits = np.concatenate(
                [
                    one.log_probabilities(features.values[test])
                    for one, (_, test) in zip(fitted, parts, strict=True)
                ]
            )
            patients = [text(example["patient_id"]) for example in examples]
            samples[name] = Sample.of(logits, images.labels[tested], patients, seed=asked.seed)
            records[name] = score_sample(samples[name], dataset.class_names) | {
                "split": TEST,
                "dataset_fingerprint": dataset.fingerprint,
                "config_hash": configs.digest(config),
                leaky.KEY: dataset.mark,
                "origin": {
                    "sources": {source: tables[source].origin for source in row.sources},
                    "classifier": row.classifier,
                    "target": row.target or "label",
                    "features": len(features.names),
                    "chosen": [one.chosen for one in fitted],
                },
            }
            folder = out / name / "eval" / TEST
            with disk_errors(folder):
                write_atomically(out / name / "config.json", configs.to_json(config))
                write_predictions(
                    folder / "predictions.csv", examples, logits, dataset.class_names, dataset.mark
                )
                write_atomically(folder / "metrics.json", json.dumps(records[name], indent=2) + "\n")
    differences = _differences(asked, samples)
    in_order = sorted(asked.rows, key=lambda name: name != asked.baseline)  # the baseline, then by name
    return [Found(name, records[name], differences[name]) for name in in_order]


def read_baselines(config: ml_collections.ConfigDict) -> Baselines:
    """The config, with every name in it looked up.

    Raises:
        UserError: one sentence that names the key.
    """
    asked = configs.read(Baselines, config)
    scalar(asked.metric)
    if asked.baseline not in asked.rows:
        raise UserError(
            f"baseline is {asked.baseline!r}, which is no row; there are {', '.join(asked.rows) or 'none'}"
        )
    for name, row in asked.rows.items():
        if not name.replace("_", "").replace("-", "").isalnum():
            raise UserError(f"rows.{name}: a row's name is a folder's; use letters, digits, - and _")
        if not row.sources:
            raise UserError(f"rows.{name}.sources is empty; there are {', '.join(SOURCES)}")
        if (row.classifier in REGRESSES) != bool(row.target):
            CLASSIFIERS.get(row.classifier)
            raise UserError(
                f"rows.{name}: classifier={row.classifier!r} with target={row.target!r}; {', '.join(REGRESSES)} learns "
                "a number and needs the column's name as target, the others learn the class and have none"
            )
        CLASSIFIERS.get(row.classifier)
        for source in row.sources:
            SOURCES.get(source)
    for name in asked.settings:
        if name not in CLASSIFIERS:
            SOURCES.get(name)
    return asked


@dataclasses.dataclass(frozen=True)
class _Images:
    """All N images of a dataset, whatever their split.

    Attributes:
        identities: their examples without pixels.
        labels: (N,) int.
        groups: (N,) names of what no split divides.
        class_names: in label order.
        place: id -> number.
    """

    identities: list[Example]
    labels: np.ndarray
    groups: np.ndarray
    class_names: tuple[str, ...]
    place: Mapping[str, int]

    @classmethod
    def of(cls, everything: Split, class_names: tuple[str, ...]) -> "_Images":
        identities = everything.identities()
        return cls(
            identities,
            np.asarray([example["label"] for example in identities]),
            np.asarray([text(example["group"]) for example in identities]),
            class_names,
            {text(example["id"]): number for number, example in enumerate(identities)},
        )

    def places(self, deal: PreparedDataset, *splits: str) -> np.ndarray:
        """The numbers of the images of some splits of a deal; of TEST there must be some."""
        wanted = [split for split in splits if split == TEST or deal.splits.get(split)]
        return np.asarray(
            [self.place[text(e["id"])] for split in wanted for e in deal.source(split).identities()], int
        )


@dataclasses.dataclass(frozen=True)
class _Fitted:
    """A classifier that has learned, and of which columns (F,) of the features it knows anything."""

    search: GridSearchCV
    known: np.ndarray

    @property
    def chosen(self) -> dict[str, Any]:
        """The settings that it chose."""
        return dict(self.search.best_params_)

    def log_probabilities(self, values: np.ndarray) -> np.ndarray:
        """(n, C) float32 of features (n, F)."""
        probabilities = self.search.predict_proba(values[:, self.known])
        return np.log(np.maximum(probabilities, _SMALLEST)).astype(np.float32)


def _fit(
    name: str,
    asked: Baselines,
    features: Table,
    images: _Images,
    learn: np.ndarray,
    target: np.ndarray | None,
) -> _Fitted:
    """A row's classifier, having learned from the images at the places `learn` their classes, or their `target` (N,).

    Raises:
        UserError: they are not enough to learn from.
    """
    labels, groups, row = images.labels[learn], images.groups[learn], asked.rows[name]
    if target is not None:
        with_number = np.isfinite(target[learn])
        learn, labels, groups = learn[with_number], labels[with_number], groups[with_number]
    absent = [of for c, of in enumerate(images.class_names) if not (labels == c).any()]
    if absent:
        known_of = f" with a number in {row.target}" if row.target else ""
        raise UserError(
            f"rows.{name}: no training image{known_of} is {', '.join(absent)}: no classifier can learn what it never "
            "sees"
        )
    # A column without a single value says nothing, and has no median.
    known = np.isfinite(features.values[learn]).any(0)
    if not known.any():
        raise UserError(f"rows.{name}: no training image has a value of {', '.join(features.names)}")
    features = features.at(known)
    fewest = min(len(set(groups[labels == c])) for c in range(len(images.class_names)))
    if fewest < asked.inner_folds:
        raise UserError(
            f"inner_folds={asked.inner_folds}, and a class has {fewest} training group(s): each inner fold needs one; "
            "set --config.inner_folds lower, or use more images"
        )
    model, grid = CLASSIFIERS.bind(
        row.classifier, {}, asked.settings.get(row.classifier, {}), f"settings.{row.classifier}"
    )(features, asked.balanced, asked.seed)
    if target is not None and len(model.thresholds) + 1 != len(images.class_names):
        raise UserError(
            f"settings.{row.classifier}.thresholds has {len(model.thresholds)} numbers and there are "
            f"{len(images.class_names)} classes; give one less than classes, descending"
        )
    given = {} if target is None else {"target": target[learn]}
    inner = StratifiedGroupKFold(asked.inner_folds, shuffle=True, random_state=asked.seed)
    search = GridSearchCV(model, grid, scoring="neg_log_loss", cv=inner)
    # Threads do not pay for problems of this size, and the last digits would depend on how many there are.
    with warnings.catch_warnings(record=True) as caught, threadpool_limits(1):
        warnings.simplefilter("always")
        search.fit(features.values[learn], labels, groups=groups, **given)
    for category in {warning.category for warning in caught}:
        said = next(str(warning.message) for warning in caught if warning.category is category)
        if category is ConvergenceWarning:
            log.warning("rows.%s did not converge: its penalty may be weaker than these features bear", name)
        else:
            log.warning("rows.%s: %s", name, " ".join(said.split()))
    return _Fitted(search, known)


def _differences(asked: Baselines, samples: Mapping[str, Sample]) -> dict[str, Any]:
    """Row -> its paired difference to the baseline; None for the baseline."""
    function = scalar(asked.metric).function
    drawn = {name: function(of.given.weighted(of.weightings())) for name, of in samples.items()}
    known = {
        name: bootstrapped(values - drawn[asked.baseline])
        for name, values in drawn.items()
        if name != asked.baseline
    }
    corrected = holm({name: 1.0 if of[3] is None else of[3] for name, of in known.items()})
    return {name: None if name == asked.baseline else (*known[name][:3], corrected[name]) for name in samples}
