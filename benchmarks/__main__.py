"""``python -m benchmarks engine``: which benchmark to run."""

import sys

from benchmarks import engine


def main() -> None:
    """Run the named benchmark."""
    if sys.argv[1:] != ["engine"]:
        sys.exit("usage: python -m benchmarks engine")
    engine.main()


main()
