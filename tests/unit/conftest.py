"""Where unit tests find what tests share: by its folder, as in `hostile.mutate`; test folders are no packages."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
