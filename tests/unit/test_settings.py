from __future__ import annotations

import os

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from foreseen.errors import Misconfigured
from foreseen.keys import KeySpace
from foreseen.settings import Settings


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """No `FORESEEN_*` but the test's own."""
    for name in [name for name in os.environ if name.startswith("FORESEEN_")]:
        monkeypatch.delenv(name)
    return monkeypatch


class TestEnvironment:
    def test_each_field_is_read_from_a_variable_of_its_name(self, environment: pytest.MonkeyPatch) -> None:
        environment.setenv("FORESEEN_CACHE_URL", "redis://cache:6379/3")
        environment.setenv("FORESEEN_LEASE_S", "2.5")
        environment.setenv("FORESEEN_MAX_ATTEMPTS", "7")
        settings = Settings()
        assert (settings.cache_url, settings.lease_s, settings.max_attempts) == ("redis://cache:6379/3", 2.5, 7)
        assert settings.lease_ms == 2500

    def test_what_is_given_wins(self, environment: pytest.MonkeyPatch) -> None:
        environment.setenv("FORESEEN_LEASE_S", "2.5")
        assert Settings(lease_s=3).lease_s == 3

    def test_it_is_read_once(self, environment: pytest.MonkeyPatch) -> None:
        settings = Settings()
        environment.setenv("FORESEEN_LEASE_S", "2.5")
        assert settings.lease_s == 10

    def test_variables_of_others_are_none_of_its_business(self, environment: pytest.MonkeyPatch) -> None:
        environment.setenv("LEASE_S", "1")
        assert Settings().lease_s == 10

    @pytest.mark.parametrize(
        ("text", "models"),
        [
            ("a.b", ("a.b",)),
            ("a.b,c.d:E", ("a.b", "c.d:E")),
            (" a.b , c.d ,", ("a.b", "c.d")),
            ("", ()),
            (" , ", ()),
        ],
    )
    def test_models_are_separated_by_commas(
        self, environment: pytest.MonkeyPatch, text: str, models: tuple[str, ...]
    ) -> None:
        environment.setenv("FORESEEN_MODELS", text)
        assert Settings().models == models

    def test_models_may_be_given_as_they_are(self) -> None:
        assert Settings(models=("a.b", "c.d")).models == ("a.b", "c.d")
        assert Settings().models == ()


class TestRefusals:
    def test_a_visibility_timeout_shorter_than_two_leases_is_told_with_the_numbers(self) -> None:
        with pytest.raises(Misconfigured) as raised:
            Settings(lease_s=10, visibility_timeout_s=19.5)
        for part in ("FORESEEN_VISIBILITY_TIMEOUT_S=19.5", "FORESEEN_LEASE_S=10", "20 or more"):
            assert part in str(raised.value)

    def test_two_leases_exactly_are_enough(self) -> None:
        assert Settings(lease_s=10, visibility_timeout_s=20).visibility_timeout_s == 20

    def test_it_is_told_from_the_environment_too(self, environment: pytest.MonkeyPatch) -> None:
        environment.setenv("FORESEEN_VISIBILITY_TIMEOUT_S", "5")
        with pytest.raises(Misconfigured):
            Settings()

    def test_a_field_that_there_is_not(self) -> None:
        with pytest.raises(ValidationError, match="leese_s"):
            Settings(leese_s=5)  # type: ignore[call-arg]

    @pytest.mark.parametrize(
        ("name", "value"),
        [
            ("lease_s", 0.1), ("lease_s", "soon"), ("max_attempts", 0), ("connect_timeout_s", 0),
            ("reply_timeout_s", -1), ("max_connections", 0), ("model_wait_s", -1), ("card_refresh_s", 0),
            ("max_input_bytes", 0), ("heartbeat_s", 0), ("namespace", ""), ("namespace", "Upper"),
            ("namespace", "with space"), ("namespace", "x" * 32), ("namespace", "a{b}"), ("namespace", "-a"),
        ],
    )  # fmt: skip
    def test_a_value_out_of_range_names_its_field(self, name: str, value: object) -> None:
        with pytest.raises(ValidationError, match=name):
            Settings(**{name: value})  # type: ignore[arg-type]


def test_nothing_can_be_changed_afterwards() -> None:
    settings = Settings()
    with pytest.raises(ValidationError, match="frozen"):
        settings.lease_s = 5  # type: ignore[misc]


def test_the_defaults_keep_their_own_rules() -> None:
    defaults = {name: field.default for name, field in Settings.model_fields.items()}
    assert Settings(**defaults) == Settings()


def test_every_setting_says_what_it_is_for() -> None:
    assert [name for name, field in Settings.model_fields.items() if not field.description] == []


@given(st.text(alphabet="aZ0_-{}: \n.", max_size=5) | st.from_regex(r"[a-z0-9][a-z0-9_-]{0,30}", fullmatch=True))
def test_a_namespace_is_right_here_exactly_if_it_is_right_for_keys(text: str) -> None:
    """Two places say what a namespace is: they must agree."""

    def accepted(make: object) -> bool:
        assert callable(make)
        try:
            make(namespace=text)
        except (ValidationError, Misconfigured):
            return False
        return True

    assert accepted(Settings) == accepted(KeySpace)


@pytest.mark.parametrize("value", ["inf", "nan"])
def test_a_duration_is_a_number_of_seconds(environment: pytest.MonkeyPatch, value: str) -> None:
    environment.setenv("FORESEEN_LEASE_S", value)
    environment.setenv("FORESEEN_VISIBILITY_TIMEOUT_S", value)
    with pytest.raises(ValidationError, match="finite"):
        Settings()


class TestUrls:
    @pytest.mark.parametrize("url", ["localhost:6379", "http://cache", "redis//cache", ""])
    def test_a_cache_that_is_no_redis_is_refused(self, url: str) -> None:
        with pytest.raises(Misconfigured, match="FORESEEN_CACHE_URL"):
            Settings(cache_url=url)

    @pytest.mark.parametrize("url", ["localhost:6379", "gopher://broker", "redis", ""])
    def test_a_broker_that_kombu_does_not_know_is_refused(self, url: str) -> None:
        with pytest.raises(Misconfigured, match="FORESEEN_BROKER_URL"):
            Settings(broker_url=url)

    @pytest.mark.parametrize("url", ["redis://a:1/0", "rediss://a", "amqp://a", "memory://"])
    def test_known_brokers_are_taken(self, url: str) -> None:
        assert Settings(broker_url=url).broker_url == url
