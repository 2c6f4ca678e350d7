"""Files that hang or kill whoever decodes them, for processes that a test does not import anything into."""

import os
import textwrap
from pathlib import Path

HANGS, KILLS = b"hang", b"kill"

# Python imports a module of this name at its start.
_SITE = """
import importlib.abc, importlib.util, os, signal, sys, time

class Finder(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name != "data_prep.image_task":
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(name)
        execute = spec.loader.exec_module
        def patched(module):
            execute(module)
            decode = module.decode
            def troubled(data, *arguments):
                if data.startswith(b"hang"):
                    time.sleep(1000)
                if data.startswith(b"kill"):
                    os.kill(os.getpid(), signal.SIGKILL)
                time.sleep(float(os.environ.get("OSTEOJAX_TEST_SLOW", 0)))
                return decode(data, *arguments)
            module.decode = troubled
        spec.loader.exec_module = patched
        return spec

sys.meta_path.insert(0, Finder())
"""


def make_trouble(folder: Path) -> str:
    """The PYTHONPATH of processes for which such files are trouble."""
    folder.mkdir(exist_ok=True)
    (folder / "sitecustomize.py").write_text(textwrap.dedent(_SITE))
    return os.pathsep.join(filter(None, [str(folder), os.environ.get("PYTHONPATH")]))
