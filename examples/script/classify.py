"""Tell the types of the files in a folder: `python classify.py FOLDER`."""

from __future__ import annotations

import sys
from pathlib import Path

from pydantic import BaseModel
from rich.console import Console
from rich.progress import track
from rich.table import Table

from producer import Producer

#: A producer refuses inputs over FORESEEN_MAX_INPUT_BYTES, 16 MiB unless it is set.
MAX_BYTES = 10_000_000


class Label(BaseModel):
    """What this script needs of the model's output."""

    label: str
    mime_type: str
    score: float


def main(folder: Path) -> None:
    """Print a table of the folder's files."""
    files = sorted(path for path in folder.iterdir() if path.is_file() and path.stat().st_size <= MAX_BYTES)
    console = Console()
    with Producer() as producer:
        file_type = producer.model("file-type", output=Label)

        for path in files[:3]:
            console.print(f"{path.name}: {file_type.submit(path.read_bytes()).source}")

        # Files are read as `map` takes them, so the folder may be far larger than memory.
        labels = file_type.map(path.read_bytes() for path in files)
        table = Table("file", "type", "MIME type", "score")
        for path, label in zip(files, track(labels, "Looking", len(files), console=console), strict=True):
            table.add_row(path.name, label.label, label.mime_type, f"{label.score:.3f}")
        console.print(table)

        for path in files[:3]:  # by now each has an entry in the cache
            console.print(f"{path.name}: {file_type.submit(path.read_bytes()).source}")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
