from __future__ import annotations

import json

import pytest
from pydantic import ValidationError

from foreseen import cards
from foreseen.canonical import canonicalize
from foreseen.cards import PER_CARD, Card
from foreseen.client.catalog import Catalog
from foreseen.errors import InvalidInput, ModelNotServed
from foreseen.flights import KEEP_MS
from foreseen.keys import KeySpace

SPACE = KeySpace("t")
CARD = Card(
    name="file-type",
    version="v3",
    queue="t.file-type@v3",
    max_batch_size=32,
    input_schema={"type": "string"},
    output_schema={"type": "object"},
    policy={"expiry_s": 600},
)


class TestReading:
    def test_a_card_is_read_as_it_was_published(self) -> None:
        published = cards.publish(SPACE, [CARD], {}, 5.0)[0]
        assert cards.parse(published[2].encode()) == CARD
        assert CARD.model_id == "file-type@v3"

    def test_a_newer_release_s_card_may_say_more(self) -> None:
        data = json.dumps({**CARD.model_dump(), "colour": "green"}).encode()
        assert cards.parse(data) == CARD

    @pytest.mark.parametrize(
        "data",
        [
            None, b"", b"{", b"null", b"[]", b"\xff", b"{}", b'{"name": "m", "version": "1", "queue": "q"}',
            b'{"name": "m", "version": "1", "queue": "q", "max_batch_size": 0}',
            b'{"name": "m", "version": "1", "queue": "q", "max_batch_size": 1, "input_schema": "text"}',
        ],
    )  # fmt: skip
    def test_what_is_no_card_is_none(self, data: bytes | None) -> None:
        assert cards.parse(data) is None

    def test_a_card_without_schemas_accepts_everything(self) -> None:
        card = cards.parse(b'{"name": "m", "version": "1", "queue": "q", "max_batch_size": 1}')
        assert card is not None
        assert (card.input_schema, card.output_schema, card.policy) == (True, True, {})

    def test_it_cannot_be_changed(self) -> None:
        with pytest.raises(ValidationError, match="frozen"):
            CARD.queue = "another"  # type: ignore[misc]

    def test_each_command_reads_one_key(self) -> None:
        assert cards.resolve(SPACE, "file-type") == [("GET", "t:current:file-type")]
        assert cards.read(SPACE, "file-type@v3") == [("GET", "t:card:file-type@v3")]
        assert cards.known_models(SPACE) == [("SMEMBERS", "t:models")]


class TestHeartbeat:
    def test_a_card_lives_for_three(self) -> None:
        card, *_ = cards.publish(SPACE, [CARD], {}, 2.5)
        assert card[:2] == ("SET", "t:card:file-type@v3")
        assert card[3:] == ("PX", 7500)

    def test_there_are_as_many_commands_for_each_card_as_it_says_and_the_last_reads_the_pointer(self) -> None:
        other = CARD.model_copy(update={"name": "other"})
        commands = cards.publish(SPACE, [CARD, other], {}, 5.0)
        assert len(commands) == 2 * PER_CARD
        assert commands[PER_CARD - 1 :: PER_CARD] == [("GET", "t:current:file-type"), ("GET", "t:current:other")]

    def test_the_pointer_is_set_only_if_it_is_missing(self) -> None:
        """It moves only when somebody promotes another version."""
        pointer = cards.publish(SPACE, [CARD], {}, 5.0)[3]
        assert pointer == ("SET", "t:current:file-type", "v3", "PX", KEEP_MS, "NX")

    def test_a_pointer_that_was_lost_comes_back_as_it_was_seen_last(self) -> None:
        pointer = cards.publish(SPACE, [CARD], {"file-type": "v2"}, 5.0)[3]
        assert pointer[2] == "v2"

    def test_every_key_it_writes_has_an_expiry(self) -> None:
        commands = cards.publish(SPACE, [CARD], {}, 5.0)
        written = {command[1] for command in commands if command[0] != "GET"}
        expiring = {command[1] for command in commands if "PX" in command or command[0] == "PEXPIRE"}
        assert written == expiring

    def test_without_cards_there_is_nothing_to_send(self) -> None:
        assert cards.publish(SPACE, [], {}, 5.0) == []


class TestNotServed:
    def test_names_come_close(self) -> None:
        error = cards.not_served("file-typ", {b"file-type@v3", b"sentiment@1"}, 5)
        assert isinstance(error, ModelNotServed)
        assert "did you mean 'file-type'" in str(error)
        assert "sentiment" not in str(error)
        assert "waited 5 s" in str(error)

    def test_another_version_comes_close(self) -> None:
        assert "'file-type@v3'" in str(cards.not_served("file-type@v2", {b"file-type@v3"}, 5))

    def test_names_that_are_far_are_listed_without_versions(self) -> None:
        text = str(cards.not_served("zzz", {b"file-type@v3", b"file-type@v2", b"sentiment@1"}, 0))
        assert "served of late: file-type, sentiment." in text

    def test_if_there_are_none_it_says_how_to_start_one(self) -> None:
        assert "FORESEEN_MODELS" in str(cards.not_served("file-type", [], 0.5))


class TestValidation:
    """By the card's schema, as the producer does on a miss."""

    @staticmethod
    def catalog(card: Card) -> Catalog:
        catalog = Catalog(SPACE, 0)
        steps = catalog.card(card.model_id)
        next(steps)
        with pytest.raises(StopIteration):
            steps.send([card.model_dump_json().encode(), None])
        return catalog

    def test_what_fits_passes(self) -> None:
        self.catalog(CARD).validate(CARD, canonicalize("text"))

    def test_what_does_not_fit_is_told_where_and_is_not_quoted(self) -> None:
        schema = {"type": "object", "properties": {"rows": {"type": "array", "items": {"type": "integer"}}}}
        card = CARD.model_copy(update={"input_schema": schema})
        with pytest.raises(InvalidInput) as raised:
            self.catalog(card).validate(card, canonicalize({"rows": [1, "a secret"]}))
        assert "file-type@v3: $.rows[1]: " in str(raised.value)
        assert "secret" not in str(raised.value)
        assert "integer" in str(raised.value)

    def test_a_card_that_accepts_everything_compiles_nothing(self) -> None:
        card = CARD.model_copy(update={"input_schema": True})
        Catalog(SPACE, 0).validate(card, canonicalize([1, None]))

    def test_a_schema_is_compiled_once(self) -> None:
        catalog = self.catalog(CARD)
        catalog.validate(CARD, canonicalize("one"))
        validator = catalog._known[CARD.model_id].validator
        refreshing = catalog.refresh()
        next(refreshing)
        with pytest.raises(StopIteration):
            refreshing.send([CARD.model_dump_json().encode()])  # the same card again
        catalog.validate(CARD, canonicalize("two"))
        assert catalog._known[CARD.model_id].validator is validator is not None
