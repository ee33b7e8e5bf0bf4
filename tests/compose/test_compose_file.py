"""What docker-compose.yml, .env.example, the Dockerfile and the code must agree on; `run.py` beside it runs them."""

from __future__ import annotations

import ast
import fnmatch
import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import click
import pytest
import redis
import yaml

from foreseen.embedded import EmbeddedServer
from foreseen.settings import Settings

_ROOT = Path(__file__).resolve().parents[2]
_LOGIN = {"FLOWER_BASIC_AUTH": "somebody:secret"}
_SETTINGS = {f"FORESEEN_{name.upper()}" for name in Settings.model_fields}
_VARIABLE = re.compile(r"\$\{(?P<name>\w+)(?:(?P<kind>:[-?])(?P<rest>[^}]*))?\}")
_OURS = ("worker", "flower", "producer", "worker-dev", "metrics")
_UNITS_S = {"ms": 0.001, "s": 1, "m": 60, "h": 3600}


def text_of(name: str) -> str:
    return (_ROOT / name).read_text(encoding="utf-8")


def filled_in(text: str, variables: dict[str, str]) -> str:
    """Fill in variables as Compose does."""

    def value(match: re.Match[str]) -> str:
        given = variables.get(match["name"], "")
        if match["kind"] == ":?" and not given:
            raise LookupError(f"{match['name']}: {match['rest']}")
        return given or (match["rest"] or "" if match["kind"] == ":-" else "")

    return _VARIABLE.sub(value, text)


def compose(**variables: str) -> dict[str, Any]:
    parsed: dict[str, Any] = yaml.safe_load(filled_in(text_of("docker-compose.yml"), _LOGIN | variables))
    return parsed


def service(name: str, **variables: str) -> dict[str, Any]:
    found: dict[str, Any] = compose(**variables)["services"][name]
    return found


def seconds(duration: str) -> float:
    parts = re.findall(r"([\d.]+)(ms|s|m|h)", duration)
    assert "".join(f"{number}{unit}" for number, unit in parts) == duration, duration
    return sum(float(number) * _UNITS_S[unit] for number, unit in parts)


def size_bytes(size: str) -> int:
    match = re.fullmatch(r"(\d+)([kmg])b?", size)
    assert match, size
    return int(match[1]) * 1024 ** " kmg".index(match[2])


def redis_options(name: str) -> dict[str, str]:
    """Return the options that a server is started with, without their dashes."""
    program, *options = service(name)["command"]
    assert program == "redis-server"
    names, values = options[::2], options[1::2]
    assert all(option.startswith("--") for option in names), names
    return {option.removeprefix("--"): value for option, value in zip(names, values, strict=True)}


# --- the two servers --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "policy"), [("broker", "noeviction"), ("cache", "allkeys-lfu")])
def test_a_real_server_takes_the_options_and_evicts_only_where_it_may(name: str, policy: str) -> None:
    with EmbeddedServer(config=redis_options(name)) as server, redis.Redis.from_url(server.url(0)) as client:
        config = client.config_get()
    assert config["maxmemory-policy"] == policy
    assert 0 < int(config["maxmemory"]) <= size_bytes(service(name)["mem_limit"]) // 2
    assert config["save"] == ""
    assert config["appendonly"] == {"broker": "yes", "cache": "no"}[name]


def test_the_broker_keeps_its_data_in_a_named_volume_and_the_cache_none() -> None:
    assert service("broker")["volumes"] == ["broker-data:/data"]
    assert "broker-data" in compose()["volumes"]
    assert "volumes" not in service("cache")
    assert "/data" in service("cache")["tmpfs"], (
        "the image declares a volume there, of which each start would leave one"
    )


def test_the_bounds_of_both_servers_are_variables() -> None:
    assert "64mb" in service("broker", BROKER_MAXMEMORY="64mb")["command"]
    assert "32mb" in service("cache", CACHE_MAXMEMORY="32mb")["command"]


# --- settings ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", _OURS)
def test_every_setting_of_foreseen_can_be_set_and_no_other_is(name: str) -> None:
    given = {each for each in service(name)["environment"] if each.startswith("FORESEEN_")}
    assert given - _SETTINGS == set(), "no such setting"
    missing = _SETTINGS - given - ({"FORESEEN_MODELS"} if name != "worker" else set())
    assert not missing, "add them to x-settings in docker-compose.yml and to .env.example"


@pytest.mark.parametrize("name", _OURS)
def test_servers_are_told_by_the_names_of_their_services(name: str) -> None:
    environment = {key: str(value) for key, value in service(name)["environment"].items() if value is not None}
    own = {key.removeprefix("FORESEEN_").lower(): value for key, value in environment.items() if "FORESEEN_" in key}
    settings = Settings(**own)
    assert settings.broker_url == "redis://broker:6379/0"
    assert settings.cache_url == "redis://cache:6379/0"
    assert "CELERY_BROKER_URL" not in environment, "it would override the workers' broker, and not the producers'"
    assert set(service(name)["depends_on"]) <= {"broker", "cache"}


def test_the_example_names_each_variable_with_its_default_and_no_other() -> None:
    text = text_of("docker-compose.yml")
    defaults = {match["name"]: match["rest"] or "" for match in _VARIABLE.finditer(text)}
    defaults["FLOWER_BASIC_AUTH"] = ""
    # Those without a value in the compose file have foreseen's own default.
    for name in _SETTINGS - {"FORESEEN_BROKER_URL", "FORESEEN_CACHE_URL", "FORESEEN_MODELS"}:
        default = Settings.model_fields[name.removeprefix("FORESEEN_").lower()].default
        defaults[name] = (
            f"{default:g}" if isinstance(default, float) else ",".join(default) if default == () else str(default)
        )
    shown = dict(re.findall(r"^#?([A-Z_]+)=(.*)$", text_of(".env.example"), re.MULTILINE))
    assert shown == defaults


def test_the_models_that_are_served_by_default_exist() -> None:
    for module in service("worker")["environment"]["FORESEEN_MODELS"].split(","):
        assert (_ROOT / (module.replace(".", "/") + ".py")).is_file(), module


# --- workers ----------------------------------------------------------------------------------------------------------


def test_workers_can_be_many() -> None:
    worker = service("worker", WORKER_REPLICAS="3")
    assert worker["deploy"]["replicas"] == 3
    assert not {"container_name", "hostname", "ports"} & set(worker)
    assert not [each for each in worker["command"] if each.startswith(("--hostname", "-n", "--pidfile"))]


@pytest.mark.parametrize("name", ["worker", "worker-dev"])
def test_a_workers_limit_on_processors_leaves_each_of_its_processes_one(name: str) -> None:
    (concurrency,) = [each for each in service(name)["command"] if each.startswith("--concurrency=")]
    assert float(service(name)["cpus"]) >= int(concurrency.partition("=")[2])
    assert float(service(name, WORKER_CPUS="0.5")["cpus"]) == 0.5


def test_a_worker_may_finish_before_it_is_killed_and_before_its_messages_are_delivered_again() -> None:
    worker = service("worker")
    visibility_timeout_s = Settings.model_fields["visibility_timeout_s"].default
    assert 30 < seconds(worker["stop_grace_period"]) < visibility_timeout_s
    assert worker["init"] is True, "as PID 1, Python does not hear a SIGTERM before Celery has set its handler"
    assert isinstance(worker["command"], list), "a shell in between would not pass SIGTERM on"


def test_producers_depend_on_no_worker() -> None:
    """`docker compose run producer` would set their number back to WORKER_REPLICAS."""
    assert "worker" not in service("producer")["depends_on"]
    assert service("producer")["profiles"] == ["tools"]


@pytest.mark.parametrize("name", ["worker", "flower"])
def test_commands_are_celerys_and_their_options_exist(name: str) -> None:
    from celery.bin.worker import worker as celery_worker
    from flower.options import default_options

    celery, option, app, command, *options = service(name)["command"]
    assert (celery, option, app, command) == ("celery", "-A", "workers", name)
    if name == "worker":
        parser = celery_worker.make_parser(click.Context(celery_worker))
        _, not_understood, _ = parser.parse_args(list(options))  # raises on an option that does not exist
        assert not_understood == []
    else:
        assert {each.partition("=")[0] for each in options} <= {f"--{each}" for each in default_options}
    assert options


# --- Flower -----------------------------------------------------------------------------------------------------------


def test_nothing_starts_without_a_login_for_flower() -> None:
    assert service("flower")["environment"]["FLOWER_BASIC_AUTH"] == "somebody:secret"
    with pytest.raises(LookupError, match="FLOWER_BASIC_AUTH: set it"):
        filled_in(text_of("docker-compose.yml"), {})
    assert re.search(r"^FLOWER_BASIC_AUTH=$", text_of(".env.example"), re.MULTILINE), "an example login would be used"


def test_flower_listens_where_its_port_and_health_check_are() -> None:
    flower = service("flower")
    options = dict(each.removeprefix("--").split("=") for each in flower["command"] if each.startswith("--"))
    assert options["address"] == "0.0.0.0"  # noqa: S104 - in its container
    assert flower["ports"] == [f"127.0.0.1:5555:{options['port']}"]
    assert f":{options['port']}/healthcheck" in flower["healthcheck"]["test"][-1]


# --- for who writes models --------------------------------------------------------------------------------------------


def test_the_profile_dev_serves_a_folder_on_mounted_code_and_follows_both() -> None:
    from foreseen.cli.up import up

    assert [name for name, each in compose()["services"].items() if each.get("profiles") == ["dev"]] == ["worker-dev"]
    dev = service("worker-dev", MODELS_FOLDER="/home/me/models")
    program, command, *arguments = dev["command"]
    assert (program, command) == ("foreseen", "up")
    options = [each.partition("=")[0] for each in arguments if each.startswith("--")]
    assert set(options) <= {option for parameter in up.params for option in parameter.opts}
    assert "--no-flower" in options, "there is one"
    mounted = dict(each.split(":", 1) for each in dev["volumes"])
    assert all(each.endswith(":ro") for each in mounted.values())
    assert dev["environment"]["PYTHONPATH"] == "/code"
    assert "--watch=/code" in arguments
    packages = tomllib.loads(text_of("pyproject.toml"))["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"]
    assert {mounted[f"./{package}"] for package in packages} == {f"/code/{package}:ro" for package in packages}
    assert mounted["./celeryconfig.py"] == "/app/celeryconfig.py:ro"
    assert mounted["/home/me/models"] == "/app/models:ro"
    assert arguments[-1] == "models/"
    (ours,) = [each.split(":")[0] for each in service("worker-dev")["volumes"] if ":/app/models" in each]
    assert list((_ROOT / ours).glob("*.py")), "there is something to begin with"


# --- monitoring -------------------------------------------------------------------------------------------------------


def test_what_watches_is_started_only_if_asked_for_and_its_images_are_pinned() -> None:
    services = compose()["services"]
    watching = {name for name, each in services.items() if each.get("profiles") == ["monitoring"]}
    assert watching == {"metrics", "prometheus", "grafana"}
    for name in ("prometheus", "grafana"):
        assert re.search(r":v?\d+\.\d+\.\d+$", services[name]["image"]), name


def test_prometheus_scrapes_what_listens_and_reads_rules_that_are_mounted() -> None:
    configuration = yaml.safe_load(text_of("monitoring/prometheus/prometheus.yml"))
    jobs = {each["job_name"]: each["static_configs"][0]["targets"] for each in configuration["scrape_configs"]}
    assert jobs == {"foreseen": ["metrics:9464"], "flower": ["flower:5555"]}
    assert {"--address=0.0.0.0", "--port=9464"} <= set(service("metrics")["command"])
    assert configuration["rule_files"] == ["rules.yml"]
    assert "./monitoring/prometheus:/etc/prometheus:ro" in service("prometheus")["volumes"]


def test_the_metrics_command_is_one_of_ours() -> None:
    from foreseen.cli.metrics import metrics

    program, command, *options = service("metrics")["command"]
    assert (program, command) == ("foreseen", "metrics")
    metrics.make_context("metrics", list(options))  # raises on an option that does not exist


def test_grafana_finds_its_board_and_its_source_and_lets_nobody_in() -> None:
    grafana = service("grafana")
    mounted = dict(each.removesuffix(":ro").rsplit(":", 1)[::-1] for each in grafana["volumes"])
    assert all(each.endswith(":ro") for each in grafana["volumes"])
    environment = grafana["environment"]
    home = environment["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"]
    folder, _, board = home.rpartition("/")
    assert (_ROOT / mounted[folder] / board).is_file()
    provider = yaml.safe_load(text_of("monitoring/grafana/provisioning/dashboards/foreseen.yml"))["providers"][0]
    assert provider["options"]["path"] == folder
    source = yaml.safe_load(text_of("monitoring/grafana/provisioning/datasources/prometheus.yml"))["datasources"][0]
    assert source["url"] == "http://prometheus:9090"
    assert environment["GF_AUTH_ANONYMOUS_ORG_ROLE"] == "Viewer"
    assert environment["GF_AUTH_DISABLE_LOGIN_FORM"] == "true"
    assert environment["GF_AUTH_BASIC_ENABLED"] == "false"


# --- all of them ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["broker", "cache", "flower", "prometheus", "grafana"])
def test_ports_are_published_on_this_machine_only(name: str) -> None:
    host, port = service(name)["ports"][0].rsplit(":", 2)[:2]
    assert host == "127.0.0.1"
    expected = {"broker": "6379", "cache": "6380", "flower": "5555", "prometheus": "9090", "grafana": "3000"}
    assert port == expected[name]


def test_every_service_is_confined_bounded_and_watched() -> None:
    for name, each in compose()["services"].items():
        assert each["read_only"] is True, name
        assert each["cap_drop"] == ["ALL"], name
        assert each["security_opt"] == ["no-new-privileges:true"], name
        assert size_bytes(each["mem_limit"]) >= 256 * 2**20, name
        assert 0 < float(each["cpus"]) <= 2, name  # Docker takes no more than the machine has
        assert "/tmp" in each["tmpfs"], name  # noqa: S108 - in its container
        if name != "producer":  # ends by itself
            assert each["restart"] == "unless-stopped", name
            assert seconds(each["healthcheck"]["timeout"]) <= seconds(each["healthcheck"]["interval"]), name


@pytest.mark.parametrize("name", ["worker", "worker-dev", "flower", "metrics"])
def test_health_checks_are_python(name: str) -> None:
    kind, python, option, script = service(name)["healthcheck"]["test"]
    assert (kind, python, option) == ("CMD", "python", "-c")
    ast.parse(script)
    assert "$" not in script, "Compose would fill it in"


def test_services_wait_until_their_servers_answer() -> None:
    for name in _OURS:
        waits = service(name)["depends_on"]
        assert waits["broker"] == {"condition": "service_healthy"}
        if name != "flower":
            assert waits["cache"] == {"condition": "service_healthy"}


# --- the run beside this file -----------------------------------------------------------------------------------------


def told_by_the_run(**environment: str) -> str:
    """Return what `run.py` says, which has to end well."""
    command = [sys.executable, str(Path(__file__).with_name("run.py"))]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_run_says_what_it_misses_and_ends_well(tmp_path: Path) -> None:
    assert told_by_the_run(PATH=str(tmp_path)) == "skipped: there is no docker here\n"
    if shutil.which("docker") is not None:  # with compose or without
        nowhere = f"unix://{tmp_path}/no.sock"
        told = told_by_the_run(**os.environ | {"DOCKER_HOST": nowhere})
        assert re.fullmatch(r"skipped: there is no (docker compose|Docker engine that answers) here\n", told)


# --- the image --------------------------------------------------------------------------------------------------------


def test_one_image_serves_all_and_is_built_once() -> None:
    """Several builds of one name at a time fail on some image stores."""
    services = compose()["services"]
    assert {services[name]["image"] for name in _OURS} == {"foreseen"}
    assert [name for name in services if "build" in services[name]] == ["worker"]
    others = {services[name]["pull_policy"] for name in _OURS if name != "worker"}
    assert others == {"never"}, "what a registry has under this name is not ours"


def dockerfile() -> dict[str, list[str]]:
    """Return the Dockerfile's instructions by their names, continued lines joined."""
    lines = [line for line in text_of("Dockerfile").splitlines() if not line.startswith("#")]
    instructions: dict[str, list[str]] = {}
    for instruction in "\n".join(lines).replace("\\\n", " ").splitlines():
        if instruction.strip():
            name, _, rest = instruction.partition(" ")
            instructions.setdefault(name, []).append(rest.strip())
    return instructions


def test_the_image_installs_extras_that_exist_and_models_that_are_pinned() -> None:
    arguments = dict(each.split("=") for each in dockerfile()["ARG"])
    extras = tomllib.loads(text_of("pyproject.toml"))["project"]["optional-dependencies"]
    assert set(arguments["EXTRAS"].split(",")) <= set(extras)
    assert {"workers", "flower", "cli", "metrics", "reload"} <= set(arguments["EXTRAS"].split(","))
    pinned = {line.partition("==")[0] for line in text_of("constraints.txt").splitlines() if "==" in line}
    assert set(arguments["MODEL_REQUIREMENTS"].split()) <= pinned
    default = service("worker")["build"]["args"]["MODEL_REQUIREMENTS"]
    assert default == arguments["MODEL_REQUIREMENTS"]


def test_the_image_runs_celery_as_nobody_special_with_this_deployments_settings() -> None:
    instructions = dockerfile()
    assert instructions["USER"] == ["10001:10001"]
    assert instructions["CMD"][0].startswith('["celery", "-A", "workers", "worker"')
    assert "CELERY_CONFIG_MODULE=celeryconfig" in instructions["ENV"][-1]
    assert "ORT_DISABLE_TELEMETRY=1" in instructions["ENV"][-1]
    assert "celeryconfig.py ./" in instructions["COPY"]
    assert len(instructions["FROM"]) == 2


def test_what_installs_things_does_not_stay_in_the_image() -> None:
    installs = [each for each in dockerfile()["RUN"] if "/dist/*.whl" in each]
    assert re.search(r"&& pip .*uninstall --yes .*\bpip setuptools wheel$", installs[-1])
    assert "--without-pip" in "".join(dockerfile()["RUN"])


def test_the_build_gets_what_it_copies_and_nothing_private() -> None:
    patterns = [line for line in text_of(".dockerignore").splitlines() if line and not line.startswith("#")]
    assert patterns[0] == "*"
    let_in = [pattern.removeprefix("!") for pattern in patterns if pattern.startswith("!")]
    assert all((_ROOT / name).exists() for name in let_in), let_in
    packages = tomllib.loads(text_of("pyproject.toml"))["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"]
    assert {*packages, "pyproject.toml", "constraints.txt", "celeryconfig.py"} <= set(let_in)
    assert not [name for name in (".env", ".git", ".venv", "tests") if any(fnmatch.fnmatch(name, p) for p in let_in)]


def test_docker_compose_itself_takes_the_file(monkeypatch: pytest.MonkeyPatch) -> None:
    compose_itself = Path(sys.executable).with_name("docker-compose")  # `make` installs it where there is a wheel
    command = [str(compose_itself)] if compose_itself.exists() else ["docker", "compose"]
    if shutil.which(command[0]) is None or subprocess.run([*command, "version"], check=False).returncode:
        pytest.skip("docker compose is not installed here")
    profiles = [word for name in ("tools", "dev", "monitoring") for word in ("--profile", name)]
    command += ["--env-file", ".env.example", *profiles, "config"]
    for match in re.finditer(r"^#?([A-Z_]+)=", text_of(".env.example"), re.MULTILINE):
        monkeypatch.delenv(match[1], raising=False)
    refused = subprocess.run([*command, "--quiet"], cwd=_ROOT, capture_output=True, text=True, check=False)
    assert refused.returncode != 0
    assert "FLOWER_BASIC_AUTH" in refused.stderr
    monkeypatch.setenv("FLOWER_BASIC_AUTH", "somebody:secret")
    shown = subprocess.run(command, cwd=_ROOT, capture_output=True, text=True, check=False)
    assert shown.returncode == 0, shown.stderr
    theirs = yaml.safe_load(shown.stdout)["services"]
    for name, ours in compose()["services"].items():
        assert theirs[name].get("command") == ours.get("command"), "filled_in() here differs from Compose"
