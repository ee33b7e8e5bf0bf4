"""The protocol's model and the scripts that it models do not drift apart unseen."""

from __future__ import annotations

from pathlib import Path

from foreseen.scripts import load

ROOT = Path(__file__).resolve().parents[2]
MODEL = ROOT / "tests" / "model"
NAMES = sorted(path.stem for path in (ROOT / "foreseen" / "scripts").glob("*.lua"))


def test_each_script_is_the_one_that_the_model_was_reviewed_against() -> None:
    lines = (MODEL / "scripts.lock").read_text(encoding="utf-8").splitlines()
    reviewed = dict(line.split() for line in lines)
    today = {name: load(name).sha for name in NAMES}
    changed = sorted(name for name in reviewed.keys() | today.keys() if reviewed.get(name) != today.get(name))
    assert not changed, (
        f"{', '.join(changed)}: changed since tests/model/protocol.pml was reviewed against it. Review the model, run "
        "tests/model/check, then note it with tests/model/check --relock."
    )


def test_the_model_says_where_each_script_is() -> None:
    readme = (MODEL / "README.md").read_text(encoding="utf-8")
    missing = [name for name in NAMES if f"| `{name}` |" not in readme]
    assert not missing, f"{', '.join(missing)}: not in the table of tests/model/README.md"
