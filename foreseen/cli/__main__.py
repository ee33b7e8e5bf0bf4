"""`python -m foreseen.cli`, for where the `foreseen` script is not on the path."""

from foreseen.cli import main

if __name__ == "__main__":
    main()
