"""`python -m osteojax` is the console script."""

from osteojax.cli.main import main

main()
