"""The command itself: `sad-pipeline`, or `python -m stages`."""

import sys


def main() -> None:
    """Run the command line; Ctrl-C while it is loaded ends it without a word, as it does later on."""
    try:
        from stages.cli import main as command
    except KeyboardInterrupt:
        sys.exit(130)
    command()


if __name__ == "__main__":
    main()
