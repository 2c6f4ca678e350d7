"""A plain Orbax checkpoint of parameters and running statistics, for those who have Orbax and not osteojax."""

from pathlib import Path

import orbax.checkpoint as ocp

from osteojax import leaky
from osteojax.export.formats.registry import FORMATS
from osteojax.export.network import arrays, nested
from osteojax.files import write_atomically
from osteojax.run.open import Run

README = """# An Orbax checkpoint

`arrays` holds `params` and `batch_stats`, dictionaries within dictionaries, float32. osteojax is not needed:

```python
from pathlib import Path
import orbax.checkpoint as ocp

with ocp.StandardCheckpointer() as checkpointer:
    tree = checkpointer.restore(Path("orbax/arrays").resolve())
```

Kernels of convolutions are (height, width, inputs, outputs), those of linear layers (inputs, outputs).
"""


@FORMATS.register("orbax")
def write_orbax(run: Run, folder: Path) -> None:
    """`orbax/arrays`, {"params": ..., "batch_stats": ...} of NumPy arrays, and `orbax/README.md` with the way in."""
    tree = {kind: nested(flat) for kind, flat in arrays(run).items()}
    with ocp.StandardCheckpointer() as checkpointer:
        checkpointer.save((folder / "orbax" / "arrays").resolve(), tree)
    said = f"{README}\n**{leaky.told(run.mark)}.**\n" if run.mark else README
    write_atomically(folder / "orbax" / "README.md", said)
