"""The table of docs/models.md: `JAX_PLATFORMS=cpu python -m tests.goldens.parity_table [ARCH ...]`."""

import sys

from osteojax import models
from tests.osteojax.models.test_models_parity import eval_errors


def main() -> None:
    print("| architecture | blocks compared | largest relative error | in block |\n|---|---|---|---|")
    for arch in sys.argv[1:] or models.ARCHITECTURES:
        errors = eval_errors(arch)
        worst = max(errors, key=errors.get)
        print(f"| {arch} | {len(errors)} | {errors[worst]:.1e} | {worst} |", flush=True)


if __name__ == "__main__":
    main()
