"""Configs: loaded from a Python file, overridden on the command line, read into typed sections, stored as JSON.

A file says what is; `read` says what may be. A config is believed only as an instance of its sections.
"""

import ast
import dataclasses
import difflib
import hashlib
import importlib.util
import json
import math
import traceback
import types
import typing
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, TypeVar, get_args, get_origin

import ml_collections

from osteojax.errors import UserError

Section = TypeVar("Section")
T = TypeVar("T")
PREFIX = "--config."


def find(path: str) -> Path:
    """The config file at `path`; a shipped config is found from any folder (`configs/train/demo.py`).

    Raises:
        UserError: no such file, neither from here nor among the shipped ones.
    """
    here = Path(__file__).resolve().parent
    given = Path(path)
    # In the repository the shipped configs lie beside the package, once installed within it.
    shipped = [folder for folder in (here.parent / "configs", here / "configs") if folder.is_dir()]
    candidates = [given]
    if given.parts[:1] == ("configs",):
        candidates += [folder.joinpath(*given.parts[1:]) for folder in shipped]
        # A name without the kind's folder will do: `configs/demo.py`.
        candidates += [
            folder / kind / given.name
            for folder in shipped
            for kind in ("prep", "train", "sweeps", "baselines", "denoisers", "segmenters")
        ]
    for candidate in candidates:
        if candidate.is_file():
            return candidate
    raise UserError(
        f"config file not found: {path}; give the path of a .py file with a get_config() function"
    )


def load(path: str, overrides: Sequence[str] = ()) -> ml_collections.ConfigDict:
    """Runs `get_config()` of the file and applies `--config.key=value` overrides.

    Raises:
        UserError: the file is absent, fails, or has no `get_config`; an override names no key or a wrong type.
    """
    file = find(path)
    config = _run(file)
    for override in overrides:
        key, equals, text = override.removeprefix(PREFIX).partition("=")
        if not equals:
            raise UserError(f"{override}: overrides are {PREFIX}key=value")
        _set(config, key, text)
    return config


def _run(file: Path) -> ml_collections.ConfigDict:
    config = run_file(file, lambda module: module.get_config(), what="config", function="get_config")
    if not isinstance(config, ml_collections.ConfigDict):
        raise UserError(f"{file}: get_config() returns a {type(config).__name__}, not a ConfigDict")
    return ml_collections.ConfigDict(config)


def run_file(file: Path, use: Callable[[types.ModuleType], T], *, what: str, function: str) -> T:
    """Runs a Python file of the user's and gives what `use` makes of its module.

    Args:
        file: to run.
        use: called with the module, whose `function` it calls.
        what: the file is, for messages.
        function: name of what the file must define.

    Raises:
        UserError: it is no Python file, has no such function, or fails; with its line where that can be told.
    """
    try:
        spec = importlib.util.spec_from_file_location(file.stem, file)
        if spec is None or spec.loader is None:
            raise UserError(
                f"{file} is no Python file; give the path of a .py file with a {function}() function"
            )
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return use(module)
    except UserError:
        raise
    except Exception as error:  # it is the user's program
        if isinstance(error, AttributeError) and function in str(error):
            raise UserError(f"{file} has no function {function}()") from None
        line = error.lineno if isinstance(error, SyntaxError) else _line_in(file, error)
        where = f"{file}, line {line}" if line else str(file)
        raise UserError(
            f"{where}: the {what} does not run: {type(error).__name__}: {' '.join(str(error).split())}"
        ) from error


def _line_in(file: Path, error: Exception) -> int | None:
    lines = [at.lineno for at in traceback.extract_tb(error.__traceback__) if at.filename == str(file)]
    return lines[-1] if lines else None


def set_value(config: ml_collections.ConfigDict, key: str, value: Any) -> None:
    """Sets one dotted key, which must be there.

    Raises:
        UserError: it is not.
    """
    section, last = _section_of(config, key)
    with section.unlocked(), section.ignore_type():
        section[last] = value


def _set(config: ml_collections.ConfigDict, key: str, text: str) -> None:
    """Sets one dotted key from the text of the command line; its type is that of the value it replaces."""
    section, last = _section_of(config, key)
    set_value(config, key, parse(text, section[last], key))


def _section_of(config: ml_collections.ConfigDict, key: str) -> tuple[ml_collections.ConfigDict, str]:
    """The section that holds a dotted key, and the key's last part."""
    section, *_ = sections = [config]
    *parents, last = key.split(".")
    for depth, name in enumerate(parents):
        section = sections[-1]
        if name not in section or not isinstance(section[name], ml_collections.ConfigDict):
            raise UserError(no_such_key(".".join(parents[: depth + 1]), section))
        sections.append(section[name])
    section = sections[-1]
    if last not in section:
        raise UserError(no_such_key(key, section))
    return section, last


def no_such_key(key: str, section: Mapping[str, Any]) -> str:
    """The sentence for a dotted key whose last part is none of the section's."""
    *parents, last = key.split(".")
    near = difflib.get_close_matches(last, section, 1)
    meant = f"; did you mean {'.'.join([*parents, near[0]])}?" if near else "."
    inside = f" in {'.'.join(parents)}" if parents else ""
    return f"there is no config key {key}{meant} Keys{inside}: {', '.join(sorted(section)) or 'none'}"


def parse(text: str, before: Any, key: str) -> Any:
    """The value that a text of the command line stands for, where `before` stood.

    Text stays text; None is None; everything else is written as in Python: `True`, `1e-3`, `('a', 'b')`, `[1, 2]`,
    `{'normal': 'healthy'}`.

    Raises:
        UserError: it is no such value.
    """
    if text == "None":
        return None
    if isinstance(before, str):
        return text
    if isinstance(before, bool) and text.lower() in ("true", "false"):
        return text.lower() == "true"
    try:
        value = ast.literal_eval(text)
    except (ValueError, SyntaxError, RecursionError, MemoryError):
        if before is None:
            return text
        raise UserError(f"{key}={text} does not fit: {_example(before, key)}") from None
    if isinstance(before, ml_collections.ConfigDict):
        if not isinstance(value, dict):
            raise UserError(f"{key} is a section; set one of its keys, or all of it: {_example(before, key)}")
        return ml_collections.ConfigDict(value)
    if isinstance(before, tuple | list):
        if not isinstance(value, tuple | list):
            raise UserError(f"{key}={text} does not fit: {_example(before, key)}")
        return type(before)(value)
    if isinstance(before, float) and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if before is not None and type(value) is not type(before):
        raise UserError(f"{key}={text} does not fit: {_example(before, key)}")
    return value


def _example(before: Any, key: str) -> str:
    if isinstance(before, ml_collections.ConfigDict):
        return f'a dictionary, as in "{PREFIX}{key}={before.to_dict()}"'
    if isinstance(before, tuple | list):
        shown = before or ("a", "b")
        return f'{"a tuple" if isinstance(before, tuple) else "a list"}, as in "{PREFIX}{key}={shown}"'
    kinds = {bool: "True or False", int: "a whole number", float: "a number"}
    return f"{kinds[type(before)]}, as in {PREFIX}{key}={before}"


@dataclasses.dataclass(frozen=True)
class Bound:
    """What a number may be, for `typing.Annotated`: from `low` to `high`, the ends included unless `open`.

    Of a tuple of any length, how many items it may have.

    Attributes:
        low, high: ends; None for none.
        open_low, open_high: whether that end itself is left out.
    """

    low: float | None = None
    high: float | None = None
    open_low: bool = False
    open_high: bool = False

    def holds(self, value: float) -> bool:
        """Whether the value lies within."""
        above = self.low is None or value > self.low or (value == self.low and not self.open_low)
        below = self.high is None or value < self.high or (value == self.high and not self.open_high)
        return above and below

    def __str__(self) -> str:
        parts = []
        if self.low is not None:
            parts.append(f"{'above' if self.open_low else 'at least'} {self.low:g}")
        if self.high is not None:
            parts.append(f"{'below' if self.open_high else 'at most'} {self.high:g}")
        return " and ".join(parts)


NotNegative = Bound(low=0)
Positive = Bound(low=0, open_low=True)
AtLeastOne = Bound(low=1)
Share = Bound(low=0, high=1)
Fraction = Bound(low=0, high=1, open_high=True)


def read(section: type[Section], values: Mapping[str, Any], where: str = "") -> Section:
    """Reads a mapping into a frozen dataclass, every field checked against its annotation.

    Annotations may be bool, int, float, str, None, `Literal`, tuples, `Mapping[str, X]`, other such dataclasses,
    unions of them, and any of them within `Annotated[..., Bound(...)]`. A whole number does for a float; nothing else
    converts.

    Args:
        section: a dataclass; fields with a default may be absent.
        values: a ConfigDict or dictionary.
        where: dotted key of the section, for messages.

    Raises:
        UserError: an unknown or missing key or a value that is not allowed; one sentence that names the key.
    """
    assert dataclasses.is_dataclass(section)
    hints = typing.get_type_hints(section, include_extras=True)
    fields = {field.name: field for field in dataclasses.fields(section)}
    dot = f"{where}." if where else ""
    for key in values:
        if key not in fields:
            raise UserError(no_such_key(f"{dot}{key}", fields))
    found = {}
    for name, field in fields.items():
        if name in values:
            found[name] = _checked(values[name], hints[name], f"{dot}{name}")
        elif field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING:
            raise UserError(f"the config has no {dot}{name}")
    return section(**found)


def _checked(value: Any, hint: Any, key: str) -> Any:
    try:
        return _converted(value, hint, key)
    except _Misfit:
        if isinstance(value, ml_collections.ConfigDict):
            value = value.to_dict()
        raise UserError(f"{key} is {value!r:.200}; it must be {_described(hint)}") from None


class _Misfit(Exception):
    """A value that is not what its annotation says."""


def _converted(value: Any, hint: Any, key: str) -> Any:
    origin, arguments = get_origin(hint), get_args(hint)
    if origin is typing.Annotated:
        converted = _converted(value, arguments[0], key)
        for bound in arguments[1:]:
            number = len(converted) if isinstance(converted, tuple) else converted
            if isinstance(bound, Bound) and number is not None and not bound.holds(number):
                raise _Misfit
        return converted
    if origin in (typing.Union, types.UnionType):
        for option in arguments:
            try:
                return _converted(value, option, key)
            except _Misfit:
                continue
        raise _Misfit
    if origin is Literal:
        if any(value == option and type(value) is type(option) for option in arguments):
            return value
        raise _Misfit
    if origin is tuple:
        return _converted_tuple(value, arguments, key)
    if isinstance(origin, type) and issubclass(origin, Mapping):
        if not isinstance(value, Mapping | ml_collections.ConfigDict):
            raise _Misfit
        return {name: _checked(inner, arguments[1], f"{key}.{name}") for name, inner in value.items()}
    if dataclasses.is_dataclass(hint) and isinstance(hint, type):
        if isinstance(value, hint):
            return value
        if not isinstance(value, Mapping | ml_collections.ConfigDict):
            raise _Misfit
        return read(hint, value, key)
    if hint is Any:
        return value
    if hint is float and type(value) in (int, float):
        if not math.isfinite(value):
            raise _Misfit
        return float(value)
    if hint in (type(None), None):
        if value is None:
            return None
        raise _Misfit
    if type(value) is hint:
        return value
    raise _Misfit


def _converted_tuple(value: Any, arguments: tuple[Any, ...], key: str) -> tuple[Any, ...]:
    if not isinstance(value, tuple | list):
        raise _Misfit
    if len(arguments) == 2 and arguments[1] is Ellipsis:
        return tuple(_checked(inner, arguments[0], f"{key}[{at}]") for at, inner in enumerate(value))
    if len(value) != len(arguments):
        raise _Misfit
    return tuple(_converted(inner, hint, key) for inner, hint in zip(value, arguments, strict=True))


def _described(hint: Any) -> str:
    origin, arguments = get_origin(hint), get_args(hint)
    if origin is typing.Annotated:
        bounds = [str(bound) for bound in arguments[1:] if isinstance(bound, Bound)]
        if get_origin(arguments[0]) is tuple:
            return f"a tuple of {' '.join(bounds)}, each item {_described(get_args(arguments[0])[0])}"
        return " ".join([_described(arguments[0]), *bounds])
    if origin in (typing.Union, types.UnionType):
        return " or ".join(_described(option) for option in arguments)
    if origin is Literal:
        return f"one of {', '.join(map(repr, arguments))}"
    if origin is tuple:
        if arguments[-1] is Ellipsis:
            return f"a tuple, each item {_described(arguments[0])}"
        return f"a tuple of {len(arguments)}: {', '.join(map(_described, arguments))}"
    if isinstance(origin, type) and issubclass(origin, Mapping):
        return "a dictionary"
    if dataclasses.is_dataclass(hint):
        return "a section with the keys " + ", ".join(field.name for field in dataclasses.fields(hint))
    names = {bool: "True or False", int: "a whole number", float: "a number", str: "text", type(None): "None"}
    return names[hint]


def from_json(text: str) -> ml_collections.ConfigDict:
    """The config stored by `to_json`.

    Raises:
        UserError: it is no JSON object.
    """
    try:
        values = json.loads(text)
        if not isinstance(values, dict):
            raise ValueError
    except ValueError:
        raise UserError("the stored config is damaged: it is not a JSON object") from None
    return ml_collections.ConfigDict(values)


def to_json(config: ml_collections.ConfigDict) -> str:
    """Canonical text of a config: plain JSON types, keys sorted, so that equal configs give equal text."""
    return json.dumps(config.to_dict(), indent=2, sort_keys=True) + "\n"


def digest(config: ml_collections.ConfigDict) -> str:
    """SHA-256 of the canonical text."""
    return hashlib.sha256(to_json(config).encode()).hexdigest()


def differences(old: ml_collections.ConfigDict, new: ml_collections.ConfigDict) -> dict[str, str]:
    """Dotted key -> `old -> new` of those whose values differ."""
    before, after = _flat(old.to_dict()), _flat(new.to_dict())
    absent = "(absent)"
    return {
        key: f"{before.get(key, absent)!r} -> {after.get(key, absent)!r}"
        for key in sorted(before.keys() | after.keys())
        if before.get(key, absent) != after.get(key, absent)
    }


def _flat(tree: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    # Through JSON, so that a tuple of the config file equals the list that the stored config gives back.
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        if isinstance(value, dict) and value:
            flat |= _flat(value, f"{prefix}{key}.")
        else:
            flat[prefix + key] = json.loads(json.dumps(value))
    return flat
