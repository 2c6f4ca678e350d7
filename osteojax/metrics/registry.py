"""What a metric is, and the registry that validation, `best.metric`, evaluation and printing read."""

import dataclasses
from collections.abc import Callable
from typing import Literal

from osteojax.errors import UserError
from osteojax.metrics.intervals import Function, Interval, studentised
from osteojax.registry import Registry

Direction = Literal["max", "min"]
Form = Literal["scalar", "by_class", "per_class"]


@dataclasses.dataclass(frozen=True)
class Metric:
    """One metric.

    Attributes:
        name: its key in metrics.json and, where it is a scalar, in `best.metric`.
        function: predictions under R weightings -> (R,) values, or (R, C) where it has a value for each class. NaN
            where the data do not define it (the recall of a class without examples).
        interval: its 95 % interval, of `osteojax.metrics.intervals`.
        direction: "max" where more is better, "min" where less is.
        form: "scalar"; "by_class" (metrics.json has `name: {class: ...}`); "per_class" (it has
            `per_class: {class: {name: ...}}`).
        headline: whether a short summary shows it.
    """

    name: str
    function: Function
    interval: Interval
    direction: Direction = "max"
    form: Form = "scalar"
    headline: bool = False


METRICS: Registry[Metric] = Registry("metric")
_ANY_NUMBER = studentised("real")


def metric(
    name: str,
    *,
    interval: Interval = _ANY_NUMBER,
    direction: Direction = "max",
    form: Form = "scalar",
    headline: bool = False,
) -> Callable[[Function], Function]:
    """Decorator that registers a function as a metric; the arguments are the fields of `Metric`."""

    def register(function: Function) -> Function:
        METRICS.register(name)(Metric(name, function, interval, direction, form, headline))
        return function

    return register


def scalars() -> dict[str, Metric]:
    """Name -> metric of those that give one number: what validation computes and `best.metric` chooses from."""
    return {name: member for name, member in METRICS.members.items() if member.form == "scalar"}


def scalar(name: str) -> Metric:
    """The scalar metric of that name.

    Raises:
        UserError: there is none; the message lists those that there are.
    """
    found = scalars()
    if name not in found:
        raise UserError(f"no metric {name!r}; there are {', '.join(found)}")
    return found[name]
