"""``python -m sentinel_extproc`` is the same as the installed command."""

from sentinel_extproc.cli import main

if __name__ == "__main__":
    main()
