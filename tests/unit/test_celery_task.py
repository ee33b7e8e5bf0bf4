"""A task whose base is `PredictionTask`: what of Celery's it refuses, before it asks anything; its model."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import pytest
from celery import Celery
from celery.canvas import chain, chord, group

from foreseen.errors import InputRefused, Misconfigured
from producer.celery import PredictionTask
from workers.celery_tasks import model_of_task
from workers.model import Model
from workers.policies import CachePolicy


class Tasks:
    """An application with a task of each kind."""

    def __init__(self) -> None:
        self.app = Celery("bureau", broker="memory://", backend="cache+memory://", set_as_current=False)

        @self.app.task(
            name="bureau.shout", base=PredictionTask, cache=CachePolicy(expiry_s=60), examples=({"text": "a"},)
        )
        def shout(text: str, *more: str, times: int = 1, **how: str) -> str:
            if text == "fail":
                raise ValueError("no voice")
            return (" ".join([text, *more]).upper() + how.get("mark", "!")) * times

        @self.app.task(name="Bureau.Odd Name", base=PredictionTask)
        def odd() -> None:
            """Has a name that no model can have."""

        @self.app.task(name="plain")
        def plain(text: str) -> str:
            return text

        self.shout, self.odd, self.plain = shout, odd, plain


@pytest.fixture
def bureau() -> Tasks:
    return Tasks()


@pytest.mark.parametrize(
    "build",
    [
        lambda tasks: tasks.shout.s("a"),
        lambda tasks: tasks.shout.si("a"),
        lambda tasks: tasks.shout.signature(("a",)),
        lambda tasks: tasks.shout.subtask(("a",)),
        lambda tasks: chain(tasks.plain.s("a"), tasks.shout.s()),
        lambda tasks: group(tasks.shout.s("a")),
        lambda tasks: chord([tasks.plain.s("a")], tasks.shout.s()),
        lambda tasks: tasks.shout.chunks([("a",)], 1),
        lambda tasks: tasks.shout.map(["a"]),
        lambda tasks: tasks.shout.starmap([("a",)]),
        lambda tasks: tasks.shout.apply_async(("a",), link=tasks.plain.s()),
        lambda tasks: tasks.shout.apply_async(("a",), chord={"task": "bureau.plain"}),
    ],
)
def test_chains_groups_chords_and_callbacks_are_refused(bureau: Any, build: Callable[[Any], Any]) -> None:
    with pytest.raises(Misconfigured, match="takes no part in chains, groups and chords"):
        build(bureau)


@pytest.mark.parametrize(
    "options", [{"countdown": 5}, {"queue": "mine"}, {"task_id": "mine"}, {"time_limit": 5}, {"eta": datetime.now(UTC)}]
)
def test_an_option_that_would_be_ignored_is_refused(bureau: Any, options: dict[str, Any]) -> None:
    with pytest.raises(Misconfigured, match=f"Celery's {next(iter(options))} has no meaning"):
        bureau.shout.apply_async(("a",), **options)


def test_eagerly_it_computes_in_place(bureau: Any) -> None:
    bureau.app.conf.task_always_eager = True
    assert bureau.shout.delay("a").get() == "A!"


def test_a_name_that_is_no_model_s_is_told(bureau: Any) -> None:
    with pytest.raises(Misconfigured, match=r"is not a model name.*model='classify'"):
        bureau.odd.delay()


def test_equal_arguments_are_one_input_however_they_are_given(bureau: Any) -> None:
    given = bureau.shout.input_of(("a", "b"), {"times": 2, "mark": "?"})
    assert given == {"text": "a", "more": ["b"], "times": 2, "how": {"mark": "?"}}
    assert bureau.shout.input_of(("a",), {}) == bureau.shout.input_of((), {"text": "a"}) == {"text": "a"}


class TestModel:
    def test_it_is_the_task_under_its_name(self, bureau: Any) -> None:
        model = model_of_task(bureau.shout)
        assert model is not None
        assert (model.name, model.cache.expiry_s, model.examples) == ("bureau.shout", 60, ({"text": "a"},))
        assert len(model.version) == 12, "a digest of this file"
        assert model_of_task(bureau.shout) is model
        assert model.is_complete()

    def test_it_computes_as_the_task_does_each_by_itself(self, bureau: Any) -> None:
        model = model_of_task(bureau.shout)
        assert model is not None
        given = bureau.shout.input_of(("a", "b"), {"times": 2, "mark": "?"})
        inputs = [given, {"text": "fail"}, {"text": "a"}, {"txt": "a"}, {}]
        outputs = model().predict(inputs)
        assert (outputs[0], outputs[2]) == ("A B?A B?", "A!")
        assert [type(outputs[place]) for place in (1, 3, 4)] == [ValueError, InputRefused, TypeError]
        assert "takes text, more, times, how, and not txt" in str(outputs[3])

    @pytest.mark.parametrize("value", [None, 1, "text", object(), PredictionTask, Model, len])
    def test_nothing_else_is_one(self, value: object) -> None:
        assert model_of_task(value) is None

    def test_nor_is_another_task(self, bureau: Any) -> None:
        assert model_of_task(bureau.plain) is None
