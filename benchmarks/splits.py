"""How near to their shares the splits come: our deal of groups beside scikit-learn's StratifiedGroupKFold.

    PYTHONPATH=. python benchmarks/splits.py [--draws 30]

Patients of one to eight images, most of one class, at four sites, drawn as the tests draw them. Printed is how many
images the class (or site) that is furthest from its share is away from it: the mean over the draws, and the largest.
"""

import argparse

import numpy as np
from sklearn.model_selection import StratifiedGroupKFold

from data_prep.split import assign_splits
from tests.data_prep.test_deal import shares_apart, sized

FOLDS = {f"fold{k}": 0.2 for k in range(5)}
SHARES = {"train": 0.6, "val": 0.2, "test": 0.2}


def folds_apart(seed):
    """Of the classes, in five folds of 60 patients: ours and scikit-learn's."""
    labels, groups, _ = sized(np.random.default_rng(seed), 60)
    ours = assign_splits(labels, groups, FOLDS, seed=seed)
    theirs = np.empty(len(labels), object)
    dealt = StratifiedGroupKFold(5, shuffle=True, random_state=seed).split(labels, labels, groups)
    for fold, (_, tested) in enumerate(dealt):
        theirs[tested] = f"fold{fold}"
    return [shares_apart(labels, splits, FOLDS) for splits in (ours, theirs.tolist())]


def sites_apart(seed):
    """Of the sites, at 60/20/20 of 80 patients: stratified by class and site, and by class alone."""
    labels, groups, sites = sized(np.random.default_rng(seed), 80)
    both, alone = (
        assign_splits(labels, groups, SHARES, seed=seed, columns=columns)
        for columns in ([labels, sites], None)
    )
    return [shares_apart(sites, splits, SHARES) for splits in (both, alone)]


def main():
    """Prints a line for each way."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--draws", type=int, default=30)
    draws = parser.parse_args().draws
    names = ("classes, ours", "classes, scikit-learn's", "sites, stratified", "sites, not stratified")
    found = np.array([folds_apart(seed) + sites_apart(seed) for seed in range(draws)])
    for name, apart in zip(names, found.T, strict=True):
        print(f"{name:26}{apart.mean():6.2f} on average, {apart.max():6.2f} at most")


if __name__ == "__main__":
    main()
