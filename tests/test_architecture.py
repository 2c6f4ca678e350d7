"""The floors of the house: each module imports only what stands below it (ARCHITECTURE.md)."""

import ast
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]

GROUND = {
    "osteojax.errors",
    "osteojax.files",
    "osteojax.page",
    "osteojax.place",
    "osteojax.storage",
    "osteojax.registry",
    "osteojax.progress",
    "osteojax.config",
    "osteojax.fingerprint",
    "osteojax.folds",
    "osteojax.leaky",
}

# From the bottom up; what stands in one line may not import its neighbours' floor, only those above it in this list.
FLOORS = {
    **dict.fromkeys(GROUND, 0),
    "osteojax.calibration": 1,
    "osteojax.data": 1,
    "osteojax.devices": 1,
    "osteojax.models": 1,
    "osteojax.metrics": 1,
    "osteojax.weights": 2,
    "osteojax.explain": 2,
    "osteojax.run": 2,
    "osteojax.train": 3,
    "osteojax.baselines": 4,
    "osteojax.evaluate": 4,
    "osteojax.export": 3,
    "osteojax.predict": 4,
    "osteojax.report": 4,
    "osteojax.compile_check": 4,
    "osteojax.sweep": 4,
    "osteojax.cli": 5,
    "osteojax.__main__": 6,
}
# What may import data_prep, beside the command line: the checks of equal preparation, and prediction.
MAY_IMPORT_DATA_PREP = {
    "osteojax.evaluate.near_copies",
    "osteojax.run.preparation",
    "osteojax.predict.explain",
    "osteojax.predict.files",
    "osteojax.predict.predict",
    "osteojax.predict.structured_report",
}
BELOW_DATA_PREP = (*sorted(GROUND), "osteojax.models", "osteojax.weights")


def modules(package: str) -> dict[str, Path]:
    """Dotted name -> file of every module of a package."""
    found = {}
    for path in sorted((ROOT / package).rglob("*.py")):
        parts = path.relative_to(ROOT).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


MODULES = modules("osteojax") | modules("data_prep")


def imports(name: str) -> set[str]:
    """The modules of ours that a module imports, anywhere in its file."""
    found = set()
    for node in ast.walk(ast.parse(MODULES[name].read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{name}: imports are absolute"
            for alias in node.names:
                full = f"{node.module}.{alias.name}"
                found.add(full if full in MODULES else node.module)
    return {module for module in found if module in MODULES and module != name}


def within(name: str, package: str) -> bool:
    return name == package or name.startswith(package + ".")


def room(name: str) -> str:
    """The entry of FLOORS that a module belongs to."""
    return next(floor for floor in FLOORS if within(name, floor))


OURS = [name for name in MODULES if within(name, "osteojax") and name != "osteojax"]


@pytest.mark.parametrize("name", OURS)
def test_no_module_imports_a_floor_above_its_own(name):
    floor = FLOORS[room(name)]
    for other in imports(name):
        if within(other, "osteojax") and other != "osteojax" and room(other) != room(name):
            below = FLOORS[room(other)]
            assert below < floor or below == floor == 0, (
                f"{name} (floor {floor}) imports {other} (floor {below})"
            )


def test_models_never_import_weights():
    guilty = {
        n for n in OURS if within(n, "osteojax.models") for m in imports(n) if within(m, "osteojax.weights")
    }
    assert not guilty


@pytest.mark.parametrize("name", [name for name in MODULES if within(name, "data_prep")])
def test_data_prep_imports_only_the_ground_models_and_weights(name):
    foreign = {
        m for m in imports(name) if within(m, "osteojax") and not any(within(m, b) for b in BELOW_DATA_PREP)
    }
    assert not foreign


@pytest.mark.parametrize("name", [n for n in OURS if not within(n, "osteojax.cli")])
def test_only_the_command_line_and_named_modules_import_data_prep(name):
    if name not in MAY_IMPORT_DATA_PREP:
        assert not {m for m in imports(name) if within(m, "data_prep")}


def test_no_circles():
    graph = {name: imports(name) for name in MODULES}
    done: set[str] = set()

    def visit(name: str, path: tuple[str, ...]) -> None:
        assert name not in path, " -> ".join((*path[path.index(name) :], name))
        if name not in done:
            for other in graph[name]:
                visit(other, (*path, name))
            done.add(name)

    for name in graph:
        visit(name, ())


ARCHITECTURES = ("densenet", "efficientnet", "resnet", "vgg")


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_no_architecture_imports_a_sibling(name):
    siblings = {f"osteojax.models.{other}" for other in ARCHITECTURES if other != name}
    assert not imports(f"osteojax.models.{name}") & siblings


def test_the_wheel_holds_every_package():
    with (ROOT / "pyproject.toml").open("rb") as file:
        named = set(tomllib.load(file)["tool"]["setuptools"]["packages"])
    found = {
        ".".join(p.parent.relative_to(ROOT).parts)
        for top in ("osteojax", "data_prep")
        for p in (ROOT / top).rglob("__init__.py")
    }
    configs = {
        f"osteojax.{'.'.join(p.parent.relative_to(ROOT).parts)}"
        for p in (ROOT / "configs").rglob("__init__.py")
    }
    assert named == found | configs
