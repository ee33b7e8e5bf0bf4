"""The command line. A composition root: it may import both `producer` and `workers`, and nothing imports it.

Every command imports what it needs when it runs, so that `foreseen --help` is quick and what is not installed is told
in a line.
"""

from __future__ import annotations

import sys

__all__ = ["main"]


def main() -> None:
    """Run `foreseen`; a plain installation, which has no click, is told what to install."""
    try:
        from foreseen.cli.root import root
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] not in {"click", "rich"}:
            raise
        wanted = sys.argv[1] if sys.argv[1:2] in (["demo"], ["up"]) else "cli"  # these two bring what they need beside
        sys.exit(f"foreseen: the command line needs {error.name}: pip install 'foreseen[{wanted}]'")
    root()
