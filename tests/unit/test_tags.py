"""What counts as tags, and what is said of what does not."""

from __future__ import annotations

from typing import Any

import pytest

from foreseen.errors import InvalidInput
from foreseen.keys import KeySpace, tag_digest
from foreseen.tags import MAX_TAG_CHARACTERS, MAX_TAGS, check_tag, tags_of, with_tags


@pytest.mark.parametrize("tag", ["a", "customer:42", "Kundin Ägypten", "with a space", "x" * MAX_TAG_CHARACTERS, "é"])
def test_a_tag_is_taken_as_it_is(tag: str) -> None:
    assert check_tag(tag) == tag


@pytest.mark.parametrize("tag", ["", "x" * (MAX_TAG_CHARACTERS + 1), "a\n", "a\0", "\ud800", 5, None, b"bytes"])
def test_what_is_none_is_refused_with_what_would_be(tag: Any) -> None:
    with pytest.raises(InvalidInput, match=r"is not a tag; one is a text of 1 to 200 printable .* 'customer:42'"):
        check_tag(tag)


def test_text_is_compared_as_it_stands() -> None:
    assert tag_digest("é") != tag_digest("e\u0301")


def test_an_index_lies_in_the_slot_of_its_directory() -> None:
    space, digest = KeySpace("t"), tag_digest("customer:42")
    assert space.tag_directory("customer:42") == f"t:t:{{{digest[:2]}}}"
    assert space.tag_index("customer:42") == f"t:t:{{{digest[:2]}}}:{digest}"


def test_each_is_given_once() -> None:
    assert tags_of(["b", "a", "b"], 1) == ("b", "a")
    assert sorted(tags_of({"b", "a"}, 1)) == ["a", "b"]
    assert tags_of((), 1) == ()


def test_a_function_is_asked_for_those_of_each_input() -> None:
    assert tags_of(lambda value: [f"customer:{value}"], 42) == ("customer:42",)


@pytest.mark.parametrize("tags", ["customer:42", "", lambda _: "customer:42"])
def test_one_text_is_not_a_list(tags: Any) -> None:
    with pytest.raises(InvalidInput, match=r"is one text: give a list of tags, such as \['"):
        tags_of(tags, 1)


@pytest.mark.parametrize("tags", [5, b"a", None, iter(["a"]), lambda _: None])
def test_what_is_no_list_is_refused(tags: Any) -> None:
    with pytest.raises(InvalidInput, match="a list of texts, or a function of the input"):
        tags_of(tags, 1)


def test_there_is_a_limit() -> None:
    assert len(tags_of([str(number) for number in range(MAX_TAGS)] * 2, 1)) == MAX_TAGS
    with pytest.raises(InvalidInput, match="33 tags; one submission has at most 32"):
        tags_of([str(number) for number in range(MAX_TAGS + 1)], 1)


def test_a_handle_s_come_beside_those_of_a_call() -> None:
    for always, tags, found in [
        ((), (), ()),
        (["a"], (), ("a",)),
        ((), ["b"], ("b",)),
        (["a"], ["b", "a"], ("a", "b")),
        (lambda value: [value], ["b"], ("x", "b")),
        (["a"], lambda value: [value], ("a", "x")),
    ]:
        assert tags_of(with_tags(always, tags), "x") == found  # type: ignore[arg-type]


def test_neither_may_be_one_text() -> None:
    for always, tags in (("ab", ["c"]), (["c"], "ab"), ((), "ab"), ("ab", ())):
        with pytest.raises(InvalidInput, match="is one text"):
            tags_of(with_tags(always, tags), 1)
