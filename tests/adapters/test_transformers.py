from __future__ import annotations

import importlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from adapters.conftest import MISSING

from foreseen.errors import Misconfigured
from workers.adapters.transformers import PipelineModel
from workers.compute import compute

pytest.importorskip("transformers", reason=MISSING)


def test_a_pipeline_tells_good_from_bad(examples: Path, loaded: Callable[..., Any]) -> None:
    del examples
    texts = ["the film was lovely", "I found the book quite HORRIBLE", "a terrible day"]
    told = compute(loaded(importlib.import_module("mood").MoodOfText), texts)
    assert [each["label"] for each in told] == ["good", "bad", "bad"]
    assert all(each["score"] > 0.8 for each in told)


def test_options_go_with_each_call(examples: Path, loaded: Callable[..., Any]) -> None:
    class Scores(PipelineModel[str, list[dict[str, Any]]]):
        name = "scores"
        version = "1"
        task = "text-classification"
        model_file = examples / "transformers" / "mood"
        options = {"top_k": None}  # noqa: RUF012 - as a user writes it

    (told,) = compute(loaded(Scores), ["the film was great"])
    assert [each["label"] for each in told] == ["good", "bad"]


def test_the_version_is_a_digest_of_all_files_of_the_folder(examples: Path, tmp_path: Path) -> None:
    versions: list[str] = []
    folder = tmp_path / "mood"
    shutil.copytree(examples / "transformers" / "mood", folder)
    for _ in range(2):

        class Mood(PipelineModel[str, dict[str, Any]]):
            name = "mood"
            task = "text-classification"
            model_file = folder

        versions.append(Mood.version)
        config = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps({**config, "id2label": {"0": "nay", "1": "yea"}}))
    assert versions[0] != versions[1]


def test_weights_that_are_pickled_are_refused(examples: Path, tmp_path: Path, loaded: Callable[..., Any]) -> None:
    import torch
    from safetensors.torch import load_file

    folder = tmp_path / "pickled"
    shutil.copytree(examples / "transformers" / "mood", folder)
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()

    class Pickled(PipelineModel[str, dict[str, Any]]):
        name = "pickled"
        version = "1"
        task = "text-classification"
        model_file = folder

    with pytest.raises(Exception, match="safetensors"):
        loaded(Pickled)


def test_a_folder_that_is_missing_fails_the_load_and_nothing_is_fetched(
    tmp_path: Path, loaded: Callable[..., Any]
) -> None:
    class Missing(PipelineModel[str, dict[str, Any]]):
        name = "missing"
        version = "1"
        task = "text-classification"
        model_file = tmp_path / "missing"

    with pytest.raises(Misconfigured, match="is no folder that save_pretrained made"):
        loaded(Missing)
