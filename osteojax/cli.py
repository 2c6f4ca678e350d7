"""The console script: `osteojax COMMAND ...`."""


def main() -> None:
    """Entry point of the console script."""
    raise SystemExit("osteojax: no command yet")
