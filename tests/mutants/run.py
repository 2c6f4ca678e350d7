"""Puts each mutant in, in a copy of the project, and counts those that the tests notice.

    make mutants                                     # all of them, in about half an hour on two cores
    python -m tests.mutants.run [WORD ...]           # those whose name or file holds one of the words

Prints a line each: killed, or SURVIVED; the exit status is 1 if one survived.
"""

import os
import shutil
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tests.mutants.backbones import BACKBONES
from tests.mutants.baselines import BASELINES
from tests.mutants.denoisers import DENOISERS
from tests.mutants.engine import ENGINE
from tests.mutants.explain import EXPLAIN
from tests.mutants.feed import FEED
from tests.mutants.hybrid import HYBRID
from tests.mutants.mutant import Mutant
from tests.mutants.preparation import PREPARATION
from tests.mutants.privacy import PRIVACY
from tests.mutants.probe import PROBE
from tests.mutants.recipes import RECIPES
from tests.mutants.region import REGION
from tests.mutants.search import SEARCH
from tests.mutants.splits import SPLITS
from tests.mutants.transfer import TRANSFER

ROOT = Path(__file__).resolve().parents[2]
MUTANTS = (
    *BACKBONES,
    *BASELINES,
    *DENOISERS,
    *ENGINE,
    *EXPLAIN,
    *FEED,
    *HYBRID,
    *PREPARATION,
    *PRIVACY,
    *PROBE,
    *RECIPES,
    *REGION,
    *SEARCH,
    *SPLITS,
    *TRANSFER,
)
# pytest's exit status when tests ran and some failed; 2 to 5 would mean that nothing was proved.
TESTS_FAILED = 1
# A mutant that loops for ever is noticed too: by whoever waits for the tests.
SECONDS = 600


def copy_of_project(folder: Path) -> Path:
    """The tracked files, in a folder of their own beside a link to shared/."""
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True)
    copy = folder / "osteojax"
    for name in listed.stdout.splitlines():
        if (ROOT / name).is_file():
            (copy / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, copy / name)
    if (ROOT.parent / "shared").is_dir():
        (folder / "shared").symlink_to((ROOT.parent / "shared").resolve())
    return copy


def pytest(project: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Runs the copy's tests against the copy's code."""
    # The copies share one cache of compiled programs: it is keyed by the programs themselves.
    environment = os.environ | {
        "PYTHONPATH": str(project),
        "JAX_COMPILATION_CACHE_DIR": str(ROOT / ".cache" / "jax"),
        "PYTHONDONTWRITEBYTECODE": "1",
    }
    command = [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", *arguments]
    return subprocess.run(
        command, cwd=project, env=environment, capture_output=True, text=True, check=False, timeout=SECONDS
    )


def verdict(mutant: Mutant) -> str:
    """ "killed", "SURVIVED", or what went wrong."""
    with tempfile.TemporaryDirectory() as folder:
        project = copy_of_project(Path(folder))
        file = project / mutant.file
        file.write_text(file.read_text().replace(mutant.old, mutant.new))
        try:
            result = pytest(project, *mutant.tests)
        except subprocess.TimeoutExpired:
            return "killed"
    if result.returncode == TESTS_FAILED:
        return "killed"
    if result.returncode == 0:
        return "SURVIVED"
    return f"NOT RUN (pytest: {result.returncode}): {result.stdout.strip().splitlines()[-1:]}"


def main(words: list[str]) -> int:
    """Runs the chosen mutants, two at a time."""
    chosen = [m for m in MUTANTS if not words or any(word in m.name or word in m.file for word in words)]
    killed = 0
    with ThreadPoolExecutor(2) as pool:
        for mutant, found in zip(chosen, pool.map(verdict, chosen), strict=True):
            killed += found == "killed"
            print(f"{found:>8}  {mutant.name} ({mutant.file})", flush=True)
    print(f"{killed} of {len(chosen)} mutants killed")
    return int(killed < len(chosen))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
