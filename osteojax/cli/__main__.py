"""`python -m osteojax.cli` is the console script."""

from osteojax.cli.main import main

main()
