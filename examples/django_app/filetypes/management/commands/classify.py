"""`manage.py classify FILE...`: tell files' types."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser

from filetypes.predictions import file_type
from producer import ForeseenError


class Command(BaseCommand):
    """Asks for all files at once."""

    help = "Tell files' types."

    def add_arguments(self, parser: CommandParser) -> None:
        """Take the files."""
        parser.add_argument("files", nargs="+", type=Path)

    def handle(self, *_: Any, files: list[Path], **__: Any) -> None:
        """Print a line for each file."""
        try:
            labels = file_type.map(file.read_bytes() for file in files)
            for file, label in zip(files, labels, strict=True):
                self.stdout.write(f"{file.name}: {label.mime_type} ({label.score:.3f})")
        except ForeseenError as error:
            raise CommandError(str(error)) from error
