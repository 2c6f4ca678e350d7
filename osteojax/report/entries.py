"""A value with its interval, as pages and cards say it."""

from collections.abc import Mapping
from typing import Any

from osteojax.page import Html, text

HEADLINES = {
    "balanced_accuracy": "balanced accuracy",
    "accuracy": "accuracy",
    "auc_ovr_macro": "ROC AUC, mean of the classes",
    "quadratic_weighted_kappa": "quadratic weighted kappa",
}


def percent(of: Mapping[str, Any]) -> str:
    """A share with its interval, in %."""
    return entry(of, 100, ".1f")


def entry(of: Mapping[str, Any], scale: float = 1.0, form: str = ".3f") -> str:
    """A value with its interval; a dash where the data do not define it."""
    if of["value"] is None:
        return "-"
    low, high = of["ci95"]
    bounds = (
        "no interval" if low is None or high is None else f"{scale * low:{form}} to {scale * high:{form}}"
    )
    return f"{scale * of['value']:{form}} ({bounds})"


def headlines(metrics: Mapping[str, Any]) -> Html:
    """The boxes on top of a page."""
    boxes = []
    for name, title in HEADLINES.items():
        of = metrics[name]
        scale, unit = (100.0, " %") if name.endswith("accuracy") else (1.0, "")
        value = "-" if of["value"] is None else f"{scale * of['value']:.{1 if scale > 1 else 2}f}{unit}"
        low, high = of["ci95"]
        form = ".1f" if scale > 1 else ".2f"
        unknown = low is None or high is None
        between = "no interval" if unknown else f"95 %: {scale * low:{form}} to {scale * high:{form}}"
        boxes.append(f"<div><dt>{text(title)}</dt><dd>{value}<small>{between}</small></dd></div>")
    return Html(f'<dl class="headline">{"".join(boxes)}</dl>')
