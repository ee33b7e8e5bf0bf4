"""The benchmarks run, tell what goes wrong, leave nothing behind, and the docs show what their record says."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import psutil
import pytest
from acceptance.harness import DEADLINE_S, wait_until

from foreseen.settings import Settings

pytestmark = pytest.mark.acceptance

ROOT = Path(__file__).resolve().parents[2]
BENCHMARKS = [sys.executable, "-m", "benchmarks", "--size", "smoke"]

#: Puts measures in the place of the real ones, then goes on as `python -m benchmarks` does.
WITH_MEASURES = """
import sys, time
from benchmarks import __main__ as run
from benchmarks.harness import Size, Skipped, Unit, compared

def wrong(stage, tell):
    assert stage.size is Size.FULL

def hangs(stage, tell):
    time.sleep(600)

def nothing(stage, tell):
    raise Skipped("there is nothing to measure")

def found(unit, target):
    return compared("two", "one", [2.0, 2.0], [1.0, 1.0], unit=unit, target=target)

def good(stage, tell):
    return [found(Unit.BYTES, 2.0), found(Unit.PER_SECOND, 2.0), found(Unit.SECONDS, None)]

def dear(stage, tell):
    return [found(Unit.SECONDS, 1.9)]

def slow(stage, tell):
    return [found(Unit.PER_SECOND, 2.1)]

Size.bound_s = 0.5
run._MEASURES.clear()
run._MEASURES.update({name: globals()[name] for name in sys.argv.pop().split(",")})
sys.exit(run._main())
"""

RENEW = """
import sys
from pathlib import Path
from benchmarks{package}.page import RECORD, renew
from benchmarks{package}.record import Record

docs = Path(sys.argv[1])
renew(Record.read(docs / RECORD), docs)
"""


@pytest.mark.timeout(400)  # 40 s on two idle cores, most of it for workers to start
def test_every_measure_runs(tmp_path: Path) -> None:
    written = tmp_path / "figures.json"
    subprocess.run([*BENCHMARKS, "--json", str(written)], cwd=ROOT, check=True, capture_output=True, timeout=380)
    record: dict[str, Any] = json.loads(written.read_text())
    assert record["failed"] == {}
    assert set(record["skipped"]) == (set() if "near_cache_bytes" in Settings.model_fields else {"near"})
    assert len(record["figures"]) >= 20
    assert all(each["ratio"] > 0 and each["rounds"] >= 2 for each in record["figures"])
    ways = {each["name"]: each for each in record["commands"]}
    hit = ways["hit"]
    assert hit["join"] == hit["submissions"] > 0
    assert hit["lpush"] == hit["other"] == 0


@pytest.mark.timeout(200)  # 70 s on two idle cores: a trace takes the time that it takes
def test_policies_are_replayed(tmp_path: Path) -> None:
    written = tmp_path / "policies.json"
    command = [sys.executable, "-m", "benchmarks.policies", "--smoke", "--json", str(written)]
    finished = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True, timeout=180)
    record: dict[str, Any] = json.loads(written.read_text())
    assert len(record["evictions"]) == 10
    assert all(0 < each["hit_rate"] < 1 for each in record["evictions"])
    assert all(each["evicted"] == 0 for each in record["evictions"] if each["room"] is None)
    assert [sum(each["computed"]) for each in record["boundaries"]] == [20] * 6  # each input once: none expires so soon
    plain, stale, early = record["hot_keys"]
    assert plain["waited"] > 0, "nobody refreshed it"
    assert stale["waited"] == early["waited"] == 0
    assert "| `hot-stale` |" in finished.stdout


@pytest.mark.timeout(120)  # 25 s on two idle cores
def test_a_large_deployment_is_simulated_and_costs_are_measured(tmp_path: Path) -> None:
    written = tmp_path / "scaling.json"
    command = [sys.executable, "-m", "benchmarks.scale", "--smoke", "--json", str(written)]
    finished = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True, timeout=110)
    record: dict[str, Any] = json.loads(written.read_text())
    assert all(record["costs"][name] > 0 for name in ("producer_hit", "cache_miss", "broker_message", "worker_item"))
    assert len(record["checks"]) == 5
    assert all(each["measured"][role] > 0 for each in record["checks"] for role in ("producers", "cache", "workers"))
    assert all(0 < each["hit_rate"] < 1 for name in ("law", "days", "losses", "growth") for each in record[name])
    assert "| `broker_message` |" in finished.stdout


def run_with(measures: str, written: Path, *options: str) -> tuple[int, dict[str, Any]]:
    command = [sys.executable, "-c", WITH_MEASURES, "--json", str(written), *options, measures]
    finished = subprocess.run(command, cwd=ROOT, check=False, capture_output=True, timeout=60)
    return finished.returncode, json.loads(written.read_text())


def test_a_measure_that_fails_or_hangs_is_told_and_the_others_go_on(tmp_path: Path) -> None:
    status, record = run_with("wrong,hangs,nothing,good", tmp_path / "figures.json", "--check")
    assert record["failed"]["wrong"].startswith("AssertionError")
    assert "longer than 0.5 s" in record["failed"]["hangs"]
    assert record["skipped"] == {"nothing": "there is nothing to measure"}
    assert [each["met"] for each in record["figures"]] == [True, True, None]
    assert status == 1


CHECKED = [(["--check"], "good", 0), (["--check"], "dear", 1), (["--check"], "slow", 1), ([], "slow", 0)]


@pytest.mark.parametrize(("options", "measure", "status"), CHECKED)
def test_check_is_of_the_targets(tmp_path: Path, options: list[str], measure: str, status: int) -> None:
    assert run_with(measure, tmp_path / "figures.json", *options)[0] == status


def test_ctrl_c_leaves_nothing_behind() -> None:
    quiet: Any = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    with subprocess.Popen([*BENCHMARKS, "--only", "miss"], cwd=ROOT, **quiet) as run:
        process = psutil.Process(run.pid)
        wait_until(lambda: any("worker" in each.cmdline() for each in process.children()), "no worker was started")
        started = process.children(recursive=True)
        run.send_signal(signal.SIGINT)
        assert run.wait(DEADLINE_S) == 128 + signal.SIGINT
    _, alive = psutil.wait_procs(started, timeout=DEADLINE_S)
    assert not alive


@pytest.mark.parametrize(
    ("package", "names"),
    [
        ("", ("performance.md", "performance-ratios.svg", "performance-latencies.svg")),
        (".adapters", ("adapters.md", "adapters-throughput.svg")),
        (".scale", ("scaling.md",)),
        (".policies", ("policies.md", "policies-boundary.svg", "policies-hot-key.svg")),
    ],
)
def test_the_docs_show_what_their_record_says(tmp_path: Path, package: str, names: tuple[str, ...]) -> None:
    """Also: the same record gives the same bytes."""
    docs = tmp_path / "docs"
    shutil.copytree(ROOT / "docs", docs)
    code = RENEW.format(package=package)
    subprocess.run([sys.executable, "-c", code, str(docs)], cwd=ROOT, check=True, timeout=60)
    for name in names:
        assert (docs / name).read_bytes() == (ROOT / "docs" / name).read_bytes(), (
            f"run python -m benchmarks{package}.page"
        )
