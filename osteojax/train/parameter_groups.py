"""Parameter groups: which parameters learn, how fast, with how much decay, and from which step on.

A group is a name, a regular expression over parameter paths (`stage4/block0/conv1/kernel`) and its settings. The
list is ordered and the first pattern that matches a path claims it, as in big_vision. Every parameter must be
claimed, and every group must claim something: a typo in a pattern must not silently freeze or unfreeze a network.
"""

import dataclasses
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Annotated

import numpy as np

from osteojax.config import NotNegative
from osteojax.errors import UserError


@dataclasses.dataclass(frozen=True)
class ParameterGroup:
    """One parameter group.

    Attributes:
        name: how it is called in tables and metrics.
        pattern: regular expression that must match a parameter's whole path.
        frozen: never updated: no gradient, no optimizer state, no weight decay, batch norm in inference mode.
        lr_factor: multiplies the learning rate.
        weight_decay: replaces the optimizer's value where it is not None.
        unfreeze_step: frozen before this step (gradual unfreezing).
    """

    name: str
    pattern: str
    frozen: bool = False
    lr_factor: Annotated[float, NotNegative] = 1.0
    weight_decay: Annotated[float, NotNegative] | None = None
    unfreeze_step: Annotated[int, NotNegative] = 0

    def frozen_at(self, step: int) -> bool:
        """Whether the group does not learn in the update that leads from `step` to `step` + 1."""
        return self.frozen or step < self.unfreeze_step


BATCH_NORM_AFFINE = r".*(bn|norm)[^/]*/(scale|bias)"


def preset(name: str, stages: Sequence[str]) -> tuple[ParameterGroup, ...]:
    """The groups of a named preset.

    Args:
        name: `head`; `stageK` (that stage and the head); `stageK+` (that stage and all later ones, and the head);
            `bn_affine` (scale and bias of every batch norm, and the head); `all`. With `@d` behind it, as in
            `all@0.7`, each part learns d times as fast as the one behind it, and the head at the full rate (layer-wise
            learning-rate decay, Howard and Ruder 2018 and Bao et al. 2022, by parts).
        stages: the model's stages in order, `stem` first, `head` last.

    Raises:
        UserError: no such preset, or the model has no such stage.
    """
    name, at, text = name.partition("@")
    if at:
        decay = _layer_decay(name, text)
        depth = {stage: len(stages) - 1 - place for place, stage in enumerate(stages)}
        return tuple(
            group if group.frozen else dataclasses.replace(group, lr_factor=decay ** depth[group.name])
            for group in preset(name, stages)
        )
    body = list(stages[:-1])
    rest = ParameterGroup("frozen", ".*", frozen=True)
    head = ParameterGroup("head", "head/.*")
    if name == "all":
        return tuple(ParameterGroup(stage, f"{stage}/.*") for stage in reversed(stages))
    if name == "head":
        return (head, rest)
    if name == "bn_affine":
        return (head, ParameterGroup("bn_affine", BATCH_NORM_AFFINE), rest)
    first = name.removesuffix("+")
    if first not in body:
        presets = ["head", *body, *(f"{stage}+" for stage in body), "bn_affine", "all"]
        raise UserError(f"no preset {name!r}; for this model use one of {', '.join(presets)}")
    learning = body[body.index(first) :] if name.endswith("+") else [first]
    return (head, *(ParameterGroup(stage, f"{stage}/.*") for stage in reversed(learning)), rest)


def _layer_decay(name: str, text: str) -> float:
    try:
        decay = float(text)
    except ValueError:
        decay = math.nan
    if not 0 < decay <= 1 or name == "bn_affine":
        raise UserError(
            f"no preset '{name}@{text}'; behind the @ stands a number above 0 and at most 1, as in stage3+@0.7, and "
            "before it one of head, stageK, stageK+, all"
        )
    return decay


def choose(
    groups: Sequence[ParameterGroup], preset_name: str, stages: Sequence[str]
) -> tuple[ParameterGroup, ...]:
    """The groups of an experiment: those listed, or where there are none those of the preset.

    Raises:
        UserError: a pattern that is no regular expression, two groups of one name, an unknown preset.
    """
    for group in groups:
        try:
            re.compile(group.pattern)
        except re.error as error:
            raise UserError(
                f"group {group.name!r}: pattern {group.pattern!r} is not a regular expression: {error}"
            ) from error
    names = [group.name for group in groups]
    if len(set(names)) < len(names):
        raise UserError(f"two groups have the same name: {', '.join(names)}")
    return tuple(groups) or preset(preset_name, stages)


def assign(groups: Sequence[ParameterGroup], paths: Iterable[str]) -> dict[str, str]:
    """Path -> name of its group.

    Raises:
        UserError: a parameter that no group claims, a group that claims nothing, or that leaves nothing to learn.
    """
    labels: dict[str, str] = {}
    for path in paths:
        owner = next((group.name for group in groups if re.fullmatch(group.pattern, path)), None)
        if owner is None:
            raise UserError(f"no group matches parameter {path!r}; end the list with a group of pattern '.*'")
        labels[path] = owner
    for group in groups:
        if group.name not in labels.values():
            raise UserError(
                f"group {group.name!r}: pattern {group.pattern!r} claims no parameter; "
                f"parameters are named like {', '.join(list(labels)[:3])}, and the first pattern that matches wins"
            )
    if all(group.frozen for group in groups):
        raise UserError(
            "every parameter is frozen: there is nothing to train; use osteojax evaluate, or unfreeze a group"
        )
    if all(group.frozen_at(0) for group in groups):
        first = min(group.unfreeze_step for group in groups if not group.frozen)
        raise UserError(f"nothing learns before step {first}: give one group unfreeze_step 0")
    return labels


def check_unfreezing(groups: Sequence[ParameterGroup], total_steps: int) -> None:
    """Raises UserError for a group that would be unfrozen only when the run is over."""
    for group in groups:
        if not group.frozen and group.unfreeze_step >= total_steps:
            raise UserError(
                f"group {group.name!r}: unfreeze_step={group.unfreeze_step} is behind the end of the run, which has "
                f"{total_steps} steps; lower it, or set frozen=True"
            )


def phases(groups: Sequence[ParameterGroup]) -> list[int]:
    """Steps at which the set of learning groups changes, 0 first."""
    return sorted({0} | {group.unfreeze_step for group in groups if not group.frozen})


def trainable_at(groups: Sequence[ParameterGroup], labels: Mapping[str, str], step: int) -> frozenset[str]:
    """Paths that learn in the update from `step` to `step` + 1."""
    learning = {group.name for group in groups if not group.frozen_at(step)}
    return frozenset(path for path, name in labels.items() if name in learning)


def table(
    groups: Sequence[ParameterGroup],
    labels: Mapping[str, str],
    shapes: Mapping[str, tuple[int, ...]],
    lr: float,
) -> list[tuple[str, ...]]:
    """Rows of text for the table printed at start: group, tensors, parameters, peak learning rate, state."""
    rows: list[tuple[str, ...]] = []
    for group in groups:
        mine = [path for path, name in labels.items() if name == group.name]
        count = sum(int(np.prod(shapes[path])) for path in mine)
        state = (
            "frozen"
            if group.frozen
            else f"from step {group.unfreeze_step}"
            if group.unfreeze_step
            else "learns"
        )
        rate = "-" if group.frozen else f"{lr * group.lr_factor:.2e}"
        rows.append((group.name, str(len(mine)), f"{count:,}", rate, state))
    return rows
