"""`unmask` and `python -m unmask`: the command line, where Ctrl-C is a line from the first import on."""

import sys


def main() -> None:
    """Run the command line; ends the process."""
    try:
        from unmask.cli import main as run

        run()
    except KeyboardInterrupt:  # while the commands are imported; later ones say more in unmask.cli
        print("interrupted before anything began", file=sys.stderr)
        sys.exit(130)


if __name__ == "__main__":
    main()
