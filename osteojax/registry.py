"""One kind of thing that a config names: a registry of its members."""

import contextlib
import dataclasses
import functools
import importlib
import pkgutil
from collections.abc import Callable, Iterator, Mapping
from types import MappingProxyType, ModuleType
from typing import Any, Generic, TypeVar

from osteojax.config import read
from osteojax.errors import UserError

T = TypeVar("T")
F = TypeVar("F", bound=Callable[..., Any])


class Registry(Generic[T]):
    """Name -> member of one kind, in the order of registration.

    A kind is a package: its module `registry` holds the registry, each further module registers one member (or a
    family), and the package itself ends in `discover`, so that a new file is all that a new member needs.

    Args:
        kind: what its members are, for messages ("loss", "denoiser").
    """

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self._members: dict[str, T] = {}

    def register(self, name: str) -> Callable[[T], T]:
        """Decorator that adds a member, or a function to call with it: `LOSSES.register("focal")(focal_loss)`.

        Raises:
            ValueError: the name is taken. A defect of the program, so not a UserError.
        """

        def add(member: T) -> T:
            if name in self._members:
                raise ValueError(f"there are two {self.kind}s called {name!r}")
            self._members[name] = member
            return member

        return add

    def get(self, name: str) -> T:
        """The member of that name.

        Raises:
            UserError: there is none; the message lists those that there are.
        """
        if name not in self._members:
            raise UserError(f"no {self.kind} {name!r}; there are {', '.join(self._members) or 'none'}")
        return self._members[name]

    @property
    def members(self) -> Mapping[str, T]:
        """All members, read only."""
        return MappingProxyType(self._members)

    def __contains__(self, name: object) -> bool:
        return name in self._members

    def __iter__(self) -> Iterator[str]:
        return iter(self._members)

    def __len__(self) -> int:
        return len(self._members)

    @contextlib.contextmanager
    def temporary(self) -> Iterator[None]:
        """Whatever is registered within is gone afterwards; for tests."""
        before = dict(self._members)
        try:
            yield
        finally:
            self._members = before


@dataclasses.dataclass(frozen=True)
class NoSettings:
    """Of a member that has none."""


@dataclasses.dataclass(frozen=True)
class Member(Generic[F]):
    """A function that a config chooses by name, with what can be set.

    Attributes:
        function: its last argument is called `settings`.
        settings: frozen dataclass, each field with a default and checked as `osteojax.config.read` does.
    """

    function: F
    settings: type


class Functions(Registry[Member[F]], Generic[F]):
    """A registry of functions that have settings: losses, optimizers, schedules."""

    def function(self, name: str, *, settings: type = NoSettings) -> Callable[[F], F]:
        """Decorator that adds `f(..., settings)`."""

        def add(function: F) -> F:
            self.register(name)(Member(function, settings))
            return function

        return add

    def bind(
        self, name: str, common: Mapping[str, Any], own: Mapping[str, Any], where: str
    ) -> Callable[..., Any]:
        """The function of that name with its settings filled in.

        Args:
            name: of the member.
            common: settings that several members share; each takes those that it has.
            own: settings meant for this very member.
            where: dotted key of `own`, for messages.

        Raises:
            UserError: there is no such member, it has no such setting, or the value is not allowed.
        """
        member = self.get(name)
        fields = {field.name for field in dataclasses.fields(member.settings)}
        values = {key: value for key, value in common.items() if key in fields}
        return functools.partial(member.function, settings=read(member.settings, {**values, **own}, where))


def discover(package: ModuleType | str) -> None:
    """Imports every module of a package, so that each registers its members. The order is alphabetical."""
    module = importlib.import_module(package) if isinstance(package, str) else package
    for found in pkgutil.iter_modules(module.__path__):
        importlib.import_module(f"{module.__name__}.{found.name}")
