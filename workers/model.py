"""A model: one class in one file that says what goes in, what comes out, and how to compute it.

class Upper(Model[str, str]):
    name = "upper"
    version = "1"

    def predict(self, batch: Sequence[str]) -> list[str]:
        return [text.upper() for text in batch]
"""

from __future__ import annotations

import hashlib
import sys
from abc import ABC, abstractmethod
from collections.abc import Sequence
from functools import cache
from inspect import getattr_static
from pathlib import Path
from typing import Any, ClassVar, Generic, TypeVar, cast, get_args, get_origin

from foreseen.errors import InputRefused, InvalidInput, InvalidOutput, Misconfigured
from foreseen.keys import check_model_name, check_version
from foreseen.value_type import DoesNotFit, ValueType
from workers.policies import Batching, CachePolicy, Limits, Retry

__all__ = ["Model"]

In = TypeVar("In")
Out = TypeVar("Out")

_VERSION_DIGITS = 12  # 48 bits of SHA-256: versions of one model never meet, and people can still read it out


class _VersionOfFiles:
    """Stands for a version that the class leaves out; looked up, it is the digest of the class's files."""

    def __get__(self, instance: object, owner: type[Model[Any, Any]]) -> str:
        return _files_then(owner)[0]


class Model(ABC, Generic[In, Out]):
    """A named, versioned predictor from `In` to `Out`, which pydantic can validate.

    A class without a `name` is a base for models, not a model.

    Attributes:
        name: what producers ask for.
        version: what the predictions depend on besides the input; left out, a digest of the model's own files: the
            modules that define the class and its bases, and `files`.
        files: further files the predictions depend on, such as weights; relative ones lie beside the module.
        cache: how long predictions are kept.
        batching: how inputs are put together.
        limits: how long a call of `predict` may take, and how much may wait.
        retry: which failures are worth another try.
        examples: inputs that a worker warms up with before it takes work, and that `foreseen check` tries.
    """

    name: ClassVar[str]
    version: ClassVar[str] = cast("str", _VersionOfFiles())
    files: ClassVar[Sequence[Path | str]] = ()
    cache: ClassVar[CachePolicy] = CachePolicy()
    batching: ClassVar[Batching] = Batching()
    limits: ClassVar[Limits] = Limits()
    retry: ClassVar[Retry] = Retry()
    examples: ClassVar[Sequence[Any]] = ()  # of `In`, which a class variable's type cannot name
    input_type: ClassVar[Any]
    output_type: ClassVar[Any]

    def load(self) -> None:
        """Load weights and whatever else is slow. Called once in each process that computes, before it takes work."""

    def unload(self) -> None:
        """Let go of what `load` took and Python does not give back by itself, such as connections.

        Called once, when nothing computes with the model any more and its process goes on: after a reload.
        """

    @abstractmethod
    def predict(self, batch: Sequence[In]) -> Sequence[Out | Exception]:
        """Compute a batch.

        Args:
            batch: 1 to `batching.max_batch_size` inputs, each an instance of `In`.

        Returns:
            As many outputs, in the same order; an exception may stand in an item's place. If this raises, every item
            is computed again alone, so that one bad item fails alone.
        """

    def cacheable(self, output: Out) -> bool:
        """Tell whether an output is kept; one that is not is delivered all the same, to everyone who joined.

        Asked once for each output, beside the computation: it should be quick. Failures are not asked about.

        Args:
            output: as `predict` returned it; it fits `Out`.

        Returns:
            Whether to keep it; if this raises, it is not kept.
        """
        del output
        return True

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        cls.input_type, cls.output_type = _type_arguments(cls)
        try:
            if "name" in cls.__dict__:
                check_model_name(cls.name)
            if "version" in cls.__dict__:
                check_version(cls.version)
        except (InvalidInput, TypeError) as error:  # TypeError: not even a str
            raise Misconfigured(f"class {cls.__qualname__}: {error}") from None
        _check_kind(cls, "cache", CachePolicy)
        _check_kind(cls, "batching", Batching)
        _check_kind(cls, "limits", Limits)
        _check_kind(cls, "retry", Retry)
        if not isinstance(cls.examples, (list, tuple)):  # above all no text, which is a sequence of texts
            raise Misconfigured(
                f"class {cls.__qualname__}: examples must be a list of inputs: examples = [first, second]"
            )

    @classmethod
    def model_id(cls) -> str:
        """Return `name@version`."""
        return f"{cls.name}@{cls.version}"

    @classmethod
    def is_what_it_was(cls) -> bool:
        """Say whether the files that the version is a digest of are still those that it was taken of.

        What they hold is loaded after that was; a version that the class says itself is the class's word.
        """
        if not isinstance(getattr_static(cls, "version"), _VersionOfFiles):
            return True
        digest, stamps = _files_then(cls)
        return _stamps_of(cls) == stamps or _digest_of(cls) == digest  # large ones are read again only if touched

    @classmethod
    def is_complete(cls) -> bool:
        """Say whether the class is a model: it has a name, a `predict`, and no type left open."""
        is_open = any(isinstance(hint, TypeVar) or _open_types(hint) for hint in (cls.input_type, cls.output_type))
        return hasattr(cls, "name") and not cls.__abstractmethods__ and not is_open

    @classmethod
    def validate_input(cls, value: Any) -> In:
        """Return the input that a value stands for.

        Args:
            value: as it travels: JSON values, bytes, numpy arrays.

        Raises:
            InputRefused: it does not fit; says where and what would, never what it is.
        """
        try:
            return cast("In", _input_type(cls).validate(value))
        except DoesNotFit as error:
            message = f"the input does not fit {cls.model_id()}: {error}"
            raise InputRefused(message, {"errors": error.errors}) from None

    @classmethod
    def dump_output(cls, value: Any) -> Any:
        """Return an output as plain values, which `foreseen.payload.pack` takes.

        Raises:
            InvalidOutput: it is no `Out`; says where and what would be, never what it is.
        """
        try:
            return _output_type(cls).dump(value)
        except DoesNotFit as error:
            message = f"the output of {cls.model_id()} does not fit its type: {error}"
            raise InvalidOutput(message, {"errors": error.errors}) from None

    @classmethod
    def input_schema(cls) -> dict[str, Any]:
        """Return the JSON Schema of inputs in canonical form; `{}` where JSON Schema cannot say it."""
        return _input_type(cls).schema("validation")

    @classmethod
    def output_schema(cls) -> dict[str, Any]:
        """Return the JSON Schema of outputs, with bytes and arrays as in canonical form."""
        return _output_type(cls).schema("serialization")


@cache
def _input_type(cls: type[Model[Any, Any]]) -> ValueType:
    return ValueType(cls.input_type)


@cache
def _output_type(cls: type[Model[Any, Any]]) -> ValueType:
    return ValueType(cls.output_type)


def _type_arguments(cls: type[Model[Any, Any]]) -> tuple[Any, Any]:
    """Return what a class puts for `In` and `Out`, itself or through its bases."""
    bases: tuple[Any, ...] = cls.__dict__.get("__orig_bases__", cls.__bases__)
    for base in bases:
        origin: Any = get_origin(base) or base
        given = get_args(base)
        if origin is Model and len(given) == len((In, Out)):
            return cast("tuple[Any, Any]", given)
        if isinstance(origin, type) and issubclass(origin, Model) and origin is not Model:
            known = dict(zip(_open_types(origin), given, strict=False))
            return _filled(origin.input_type, known), _filled(origin.output_type, known)
    message = (
        f"class {cls.__qualname__}: say what goes in and what comes out: class {cls.__qualname__}(Model[bytes, Label])"
    )
    raise Misconfigured(message)


def _open_types(hint: Any) -> tuple[Any, ...]:
    if isinstance(hint, type) and not issubclass(hint, Model):
        return ()  # a generic class given without its arguments stands for itself
    return tuple(getattr(hint, "__parameters__", ()))


def _filled(hint: Any, known: dict[Any, Any]) -> Any:
    """Put known types in the place of type variables."""
    if isinstance(hint, TypeVar):
        return known.get(hint, hint)
    parameters = _open_types(hint)
    return hint[tuple(known.get(one, one) for one in parameters)] if parameters else hint


def _check_kind(cls: type[Model[Any, Any]], attribute: str, kind: type) -> None:
    if not isinstance(getattr(cls, attribute), kind):
        raise Misconfigured(
            f"class {cls.__qualname__}: {attribute} must be a {kind.__name__}: {attribute} = {kind.__name__}()"
        )


@cache
def _files_then(cls: type[Model[Any, Any]]) -> tuple[str, list[tuple[int, ...]]]:
    """Return the digest of a class's files, and what the system says of them, as it was when this was first asked."""
    stamps = _stamps_of(cls)  # first: what changes meanwhile has another stamp later
    return _digest_of(cls), stamps


def _digest_of(cls: type[Model[Any, Any]]) -> str:
    """Return the digest of a class's files: their names and contents, not where they lie, so that machines agree."""
    whole = hashlib.sha256()
    for name, content in sorted((path.name, _content_of(path, cls)) for path in _all_files_of(cls)):
        whole.update(f"{name}\0{content}\n".encode())
    return whole.hexdigest()[:_VERSION_DIGITS]


def _stamps_of(cls: type[Model[Any, Any]]) -> list[tuple[int, ...]]:
    """Return what tells a file that was written or replaced from one that was not."""
    try:
        stats = [path.stat() for path in sorted(_all_files_of(cls))]
    except OSError as error:
        raise Misconfigured(f"class {cls.__qualname__}: a file of its version cannot be read: {error}") from error
    return [(each.st_dev, each.st_ino, each.st_size, each.st_mtime_ns, each.st_ctime_ns) for each in stats]


def _all_files_of(cls: type[Model[Any, Any]]) -> set[Path]:
    return {
        path for base in cls.__mro__ if issubclass(base, Model) and base is not Model for path in _files_of(base, cls)
    }


def _files_of(base: type[Model[Any, Any]], cls: type[Model[Any, Any]]) -> list[Path]:
    module = getattr(sys.modules.get(base.__module__), "__file__", None)
    if module is None:
        raise Misconfigured(
            f"class {cls.__qualname__}: {base.__module__} is no file to take a digest of; give the class a version"
        )
    here = Path(module).resolve()
    return [here, *((here.parent / file).resolve() for file in base.__dict__.get("files", ()))]


def _content_of(path: Path, cls: type[Model[Any, Any]]) -> str:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise Misconfigured(f"class {cls.__qualname__}: a file of its version cannot be read: {error}") from error
