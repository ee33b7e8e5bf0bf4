"""Hand letters to the mailroom and print what it says: `python send.py FILE...`."""

import sys
from pathlib import Path

from mailroom import app

letters = [app.send_task("mailroom.sort", [str(Path(file).resolve())]) for file in sys.argv[1:]]
for letter in letters:
    print("{letter}: {mime_type}, {tray} (sorted by process {process})".format(**letter.get(timeout=60)))
