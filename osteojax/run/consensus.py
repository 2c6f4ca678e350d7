"""Several networks, or an image and its mirror image, that answer as one: the mean of their probabilities.

A mean of probabilities is less sure of itself than each of them is, also where each is calibrated, so that it has a
temperature of its own, fitted on its own answers to validation (Rahaman and Thiery 2021, "pool then calibrate"). That
needs images that no network of the ensemble learned from: runs of one dataset and one fold have them in common, folds
of a cross-validation do not.
"""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float
from scipy.special import log_softmax, logsumexp

from osteojax.calibration.temperature import fit_temperature
from osteojax.run.fitted import Calibrated, Fitted
from osteojax.run.open import Run


def combined(views: Sequence[Float[np.ndarray, "n classes"]]) -> Float[np.ndarray, "n classes"]:
    """Logits whose softmax is the mean of the views' probabilities; those of a single view are its own."""
    if len(views) == 1:
        return views[0]
    said = np.stack([log_softmax(view.astype(np.float64), axis=-1) for view in views])
    return logsumexp(said, axis=0) - np.log(len(views))


def apart(runs: Sequence[Run]) -> str | None:
    """Why these runs have no validation images in common; None where they have."""
    first = runs[0]
    for run in runs[1:]:
        both = f"{first.workdir} and {run.workdir}"
        if run.record["dataset_fingerprint"] != first.record["dataset_fingerprint"]:
            return f"{both} were trained on different datasets"
        if run.tested != first.tested:
            return f"{both} are different folds: what one is validated on, the other learned from"
        if run.config.eval.split != first.config.eval.split:
            return f"{both} were validated on different splits"
    return None


def fitted_together(
    runs: Sequence[Run], known: Sequence[Fitted | None], *, mirrored: bool = False
) -> tuple[Calibrated | None, str | None]:
    """What validation teaches about the mean of these networks' answers; or None, and why it teaches nothing.

    Args:
        runs: the networks.
        known: what was fitted for each.
        mirrored: each network answers to the mirror image, too.
    """
    members = []
    for run, one in zip(runs, known, strict=True):
        if one is None:
            return (
                None,
                f"nothing was fitted for {run.workdir}: it has no validation images, or they are not at hand",
            )
        if mirrored and one.mirrored is None:
            return None, f"the dataset of {run.workdir} is not at hand to see what it says of mirrored images"
        members.append(one)
    reason = apart(runs)
    return (None, reason) if reason else (calibrate(members, mirrored=mirrored), None)


def calibrate(members: Sequence[Fitted], *, mirrored: bool = False) -> Calibrated:
    """What validation teaches about the mean of these networks' answers.

    Args:
        members: fitted on the same validation images.
        mirrored: each network answers to the mirror image, too; they must have been asked for.
    """
    if len(members) == 1 and not mirrored:
        return members[0]
    views = []
    for member in members:
        views.append(member.logits)
        if mirrored:
            assert member.mirrored is not None
            views.append(member.mirrored)
    logits, labels = combined(views), members[0].labels
    return Calibrated(logits, labels, fit_temperature(logits, labels))
