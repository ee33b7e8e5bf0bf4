"""What an ensemble says of itself, and which versions its members have."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from foreseen.cards import Card
from foreseen.errors import Misconfigured
from workers.combine import FirstGood, HardVote, Mean, Stacking
from workers.ensemble import Ensemble
from workers.model import Model
from workers.pinning import MEMBERS, followed, pinned
from workers.registry import Found


class Own(Model[int, float]):
    name = "own"
    version = "1"

    def predict(self, batch: Sequence[int]) -> list[float]:
        return [float(one) for one in batch]


class Both(Ensemble[int, float]):
    name = "both"
    version = "1"
    members = ("own", "other")


class Over(Ensemble[int, float]):
    name = "over"
    version = "1"
    members = ("both", "own")


class Cluster:
    """What other workers serve, and which versions are current."""

    def __init__(self, current: dict[str, str], **members: Sequence[str]) -> None:
        self.current = current
        self.cards = {
            f"{name}@{version}": Card(
                name=name, version=version, queue="q", max_batch_size=1,
                policy={MEMBERS: [*members[name]]} if name in members else {},
            )
            for name, version in current.items()
        }  # fmt: skip

    def pin(self, *models: Any) -> Found:
        found = Found({model.model_id(): model for model in models})
        return pinned(found, (self.current.get, self.cards.get))


def error_of(found: Found) -> str:
    (error,) = found.errors.values()
    return error


class TestPinning:
    def test_a_member_is_the_current_version(self) -> None:
        found = Cluster({"own": "1", "other": "7"}).pin(Own, Both)
        assert not found.errors
        both: Any = found.models[next(each for each in found.models if each.startswith("both@1+"))]
        assert {name: each.model_id for name, each in both.pinned.items()} == {"own": "own@1", "other": "other@7"}

    def test_another_current_version_of_a_member_makes_another_ensemble(self) -> None:
        ids = [[*Cluster({"own": "1", "other": version}).pin(Own, Both).models][1] for version in ("7", "8", "7")]
        assert ids[0] == ids[2] != ids[1]

    def test_another_combiner_makes_another_ensemble(self) -> None:
        class Voting(Both):
            combine = HardVote()

        cluster = Cluster({"own": "1", "other": "7"})
        assert [*cluster.pin(Both).models] != [*cluster.pin(Voting).models]

    def test_a_member_that_is_served_here_is_that_one_whatever_is_current(self) -> None:
        cluster = Cluster({"own": "old", "other": "7"})
        (_, both) = cluster.pin(Own, Both).models.values()
        assert both.pinned["own"].version == "1"  # type: ignore[attr-defined]
        (both,) = cluster.pin(Both).models.values()
        assert both.pinned["own"].version == "old"  # type: ignore[attr-defined]

    def test_of_several_that_are_served_here_it_is_the_current_one(self) -> None:
        class Newer(Own):
            version = "2"

        (*_, both) = Cluster({"own": "2", "other": "7"}).pin(Own, Newer, Both).models.values()
        assert both.pinned["own"].version == "2"  # type: ignore[attr-defined]
        assert "say which, own@VERSION" in error_of(Cluster({"other": "7"}).pin(Own, Newer, Both))

    def test_a_version_that_is_named_is_that_one(self) -> None:
        class Named(Both):
            members = ("own@1", "other@7")

        (_, named) = Cluster({"own": "2", "other": "7"}).pin(Own, Named).models.values()
        assert [each.version for each in named.pinned.values()] == ["1", "7"]  # type: ignore[attr-defined]
        assert followed([named]) == {}
        assert "no worker serves its member own@1" in error_of(Cluster({"other": "7"}).pin(Named))

    def test_another_current_version_matters_of_members_of_other_workers(self) -> None:
        found = Cluster({"own": "1", "other": "7"}).pin(Own, Both)
        assert followed(found.models.values()) == {"other": "7"}

    def test_a_member_that_nobody_serves_takes_only_its_ensemble_down(self) -> None:
        found = Cluster({}).pin(Own, Both)
        assert [*found.models] == ["own@1"]
        assert error_of(found) == "both is not served: no worker serves its member other; start one first"

    def test_an_ensemble_of_ensembles_is_another_when_a_member_s_member_is(self) -> None:
        first = Cluster({"own": "1", "other": "7"}).pin(Over, Own, Both)
        second = Cluster({"own": "1", "other": "8"}).pin(Over, Own, Both)
        over = [next(each for each in found.models if each.startswith("over@")) for found in (first, second)]
        assert over[0] != over[1]
        assert first.models[over[0]].pinned["both"].is_ensemble  # type: ignore[attr-defined]
        assert not first.models[over[0]].pinned["own"].is_ensemble  # type: ignore[attr-defined]

    def test_an_ensemble_of_another_worker_is_known_by_its_card(self) -> None:
        found = Cluster({"own": "1", "both": "1+abc"}, both=["own@1"]).pin(Own, Over)
        (_, over) = found.models.values()
        assert over.pinned["both"].is_ensemble  # type: ignore[attr-defined]

    def test_a_stacker_is_pinned_too(self) -> None:
        class Stacked(Both):
            combine = Stacking("judge")

        (stacked,) = Cluster({"own": "1", "other": "7", "judge": "3"}).pin(Stacked).models.values()
        assert stacked.pinned["judge"].version == "3"  # type: ignore[attr-defined]


class TestCircles:
    def test_of_one(self) -> None:
        class Itself(Both):
            name = "itself"
            members = ("itself",)

        assert error_of(Cluster({}).pin(Itself)).endswith("an ensemble cannot be its own member: itself > itself")

    def test_of_two_in_one_worker(self) -> None:
        class Back(Both):
            name = "both"
            members = ("over",)

        errors = Cluster({}).pin(Over, Back, Own).errors.values()
        assert len(errors) == 2
        assert any("over > both > over" in each for each in errors)

    def test_through_another_worker(self) -> None:
        cluster = Cluster({"own": "1", "both": "1+a"}, both=["over@1+b"])
        assert "over > both@1+a > over@1+b" in error_of(
            cluster.pin(Over, Own).__class__({}, cluster.pin(Over, Own).errors)
        )


class TestRefused:
    @pytest.mark.parametrize(
        ("attributes", "why"),
        [
            ({"members": ()}, "members must be names"),
            ({"members": "own"}, "members must be names"),
            ({"members": (Own,)}, "members must be names"),
            ({"members": ("own", "own")}, "a model is asked once"),
            ({"members": ("Own!",)}, "is not a model name"),
            ({"members": ("own",), "combine": Stacking("own")}, "a model is asked once"),
            ({"members": ("own",), "combine": Mean}, "must be a combiner"),
            ({"members": ("own",), "combine": Mean(weights={"x": 1})}, "for each of"),
            ({"members": ("own",), "quorum": 2}, "give a number from 1 to 1"),
            ({"members": ("own",), "quorum": True}, "give a number from 1 to 1"),
            ({"members": ("own", "b"), "quorum": 2, "combine": FirstGood()}, "one answer is taken"),
            ({"members": ("own",), "member_timeout_s": 0}, "give seconds"),
            ({"members": ("own",), "partial_expiry_s": -1}, "give seconds"),
        ],
    )
    def test_it_says_what_would_be_right(self, attributes: dict[str, Any], why: str) -> None:
        with pytest.raises(Misconfigured, match=why):
            type("Wrong", (Both,), {"name": "wrong", **attributes})

    def test_its_own_predict_is_not_for_calling(self) -> None:
        with pytest.raises(NotImplementedError, match="its members are asked instead"):
            Both().predict([1])
