"""Names for things that stand in configurations: one place that writes them and finds them again."""

from __future__ import annotations

import contextvars
import difflib
import functools
import inspect
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, TypeVar

from ..errors import ArgumentError, FormatError, MinirnnError
from .keras_configs import without_legacy_keys

T = TypeVar("T")

CUSTOM = "custom"
_objects: dict[tuple[str, str], Any] = {}
_names: dict[Any, str] = {}
_scope: contextvars.ContextVar[dict[str, Any] | None] = contextvars.ContextVar("custom_objects", default=None)
# What was written (by id) or read (by shared_object_id) since the outermost `sharing` began.
_shared: contextvars.ContextVar[dict[int, Any] | None] = contextvars.ContextVar("shared", default=None)


def snake_case(name: str) -> str:
    """`name` as Keras spells layer and loss names: lower case, words joined by underscores.

    >>> snake_case("LayerNormalization"), snake_case("SimpleRNN"), snake_case("GlorotUniform"), snake_case("L2")
    ('layer_normalization', 'simple_rnn', 'glorot_uniform', 'l2')
    """
    return re.sub(r"([a-z])([A-Z])|([A-Z])(?=[A-Z][a-z])", lambda m: f"{m[1] or m[3]}_{m[2] or ''}", name).lower()


def register(name: str | None = None, *, kind: str = CUSTOM, aliases: tuple[str, ...] = ()) -> Callable[[T], T]:
    """Decorate a class or function so that configurations can hold it by `name` (default: its own name).

    What users register is found wherever a name is looked up; `kind` ("layer", "loss", ...) keeps
    minirnn's own names apart.  Raises ArgumentError when the name is taken by something else.

    >>> @register("my_squash")
    ... def squash(x):
    ...     return x / (1 + abs(x))
    >>> get("activation", "my_squash") is squash
    True
    """

    def decorate(target: T) -> T:
        own_name = name or target.__name__  # type: ignore[attr-defined]
        for key in {own_name, snake_case(own_name), *aliases}:
            taken = _objects.get((kind, key))
            if taken is not None and not _same_definition(taken, target):
                raise ArgumentError(f"the name {key!r} is already registered", got=target, expected=taken)
            _objects[kind, key] = target
        _names[target] = own_name
        return target

    return decorate


def _same_definition(one: Any, other: Any) -> bool:
    """Whether two objects come from the same source place, as after running a notebook cell again."""
    return (one.__module__, one.__qualname__) == (other.__module__, other.__qualname__)


@contextmanager
def custom_object_scope(objects: Mapping[str, Any] | None) -> Iterator[None]:
    """Within the block, names in configurations are looked up in `objects` first.

    >>> with custom_object_scope({"double": lambda x: 2 * x}):
    ...     get("activation", "double")(3)
    6
    """
    token = _scope.set({**(_scope.get() or {}), **(objects or {})})
    try:
        yield
    finally:
        _scope.reset(token)


@contextmanager
def sharing() -> Iterator[dict[int, Any]]:
    """Within the outermost block, a layer that is written twice is one layer again when it is read.

    Both entries then carry the same "shared_object_id", as in Keras 2.

    >>> from minirnn.layers import Dense
    >>> layer = Dense(3)
    >>> with sharing():
    ...     entries = [serialize(layer), serialize(layer)]
    >>> with sharing():
    ...     one, other = [deserialize(entry, "layer") for entry in entries]
    >>> one is other
    True
    """
    outer = _shared.get()
    if outer is not None:
        yield outer
        return
    found: dict[int, Any] = {}
    token = _shared.set(found)
    try:
        yield found
    finally:
        _shared.reset(token)


def lookup(kind: str, name: str) -> Any:
    """The class or function called `name`; raises ArgumentError with the nearest names when there is none."""
    scope = _scope.get() or {}
    for found in (scope.get(name), _objects.get((CUSTOM, name)), _objects.get((kind, name))):
        if found is not None:
            return found
    known = {key for (group, key) in _objects if group in (kind, CUSTOM)} | set(scope)
    near = difflib.get_close_matches(name, sorted(known), n=3)
    raise ArgumentError(
        f"unknown {kind} {name!r}",
        expected="one of " + ", ".join(repr(key) for key in near or sorted(known)),
        fix=f"for one of your own, pass custom_objects={{{name!r}: ...}} or decorate it with minirnn.register",
    )


def name_of(target: Any) -> str | None:
    """The name under which a class or function is registered or stands in the scope, or None."""
    for key, value in (_scope.get() or {}).items():
        if value is target:
            return key
    try:
        return _names.get(target)
    except TypeError:  # an object that cannot be hashed was never registered
        return None


def serialize(target: Any) -> Any:
    """The configuration of an object (with `get_config`) or a function: only what JSON can hold.

    Raises ArgumentError for what could not be found again: a lambda, or an object without `get_config`.

    >>> from minirnn.layers import Dense
    >>> serialize(Dense(3))["class_name"]
    'Dense'
    """
    if target is None or isinstance(target, str):
        return target
    if hasattr(target, "get_config") and not isinstance(target, type):
        return _object_entry(target)
    name = name_of(target) or getattr(target, "__name__", None)
    if not callable(target) or name is None or name == "<lambda>":
        raise ArgumentError(
            "this cannot be written into a configuration, because it has no name to be found by",
            got=repr(target),
            fix="define a named function (or a class with get_config) and decorate it with minirnn.register",
        )
    return {"class_name": "function", "config": name}


def _object_entry(target: Any) -> dict[str, Any]:
    cls = type(target)
    with sharing() as written:
        if id(target) in written:
            _, entry = written[id(target)]
            entry.setdefault("shared_object_id", 1 + sum("shared_object_id" in e for _, e in written.values()))
            return dict(entry)
        entry = {"class_name": cls.__name__, "config": target.get_config()}
        if name_of(cls) not in (None, cls.__name__):
            entry["registered_name"] = name_of(cls)
        if hasattr(target, "get_weights"):  # only of what holds weights does it matter whether it is one or two
            written[id(target)] = target, entry
        return entry


def deserialize(config: Any, kind: str, custom_objects: Mapping[str, Any] | None = None) -> Any:
    """The object that `serialize` described; raises FormatError or ArgumentError when it cannot be made.

    >>> from minirnn.layers import Dense
    >>> deserialize(serialize(Dense(3)), "layer").units
    3
    """
    with custom_object_scope(custom_objects):
        if config is None:
            return None
        if isinstance(config, str):
            found = lookup(kind, config)
            return found() if isinstance(found, type) else found
        if not isinstance(config, Mapping) or not isinstance(config.get("class_name"), str) or "config" not in config:
            raise FormatError(f"this is not the configuration of a {kind}", got=repr(config))
        if config["class_name"] == "function":
            return lookup(kind, str(config["config"]))
        cls = _lookup_class(kind, config)
        if not isinstance(config["config"], Mapping):
            raise FormatError(f"the configuration of {config['class_name']} is not a mapping", got=config["config"])
        with sharing() as read:
            number = config.get("shared_object_id")
            if number is not None and number in read:
                return read[number]
            make = cls.from_config if hasattr(cls, "from_config") else functools.partial(made_from, cls)
            made = make(dict(config["config"]))
            if number is not None:
                read[number] = made
            return made


def made_from(cls: Any, config: Mapping[str, Any]) -> Any:
    """`cls(**config)` without the keys that only mean something to Keras; ArgumentError for others that it lacks."""
    kept = without_legacy_keys(config, inspect.signature(cls).parameters)
    try:
        return cls(**kept)
    except MinirnnError:
        raise
    except TypeError as error:
        raise ArgumentError(
            f"{cls.__name__} cannot be made from its configuration: {error}",
            got=", ".join(kept),
            fix="a class with arguments of its own needs a get_config that returns them",
        ) from error


def serialize_all(targets: Iterable[Any]) -> list[Any]:
    """The configurations of several objects, among which one layer may stand twice."""
    with sharing():
        return [serialize(target) for target in targets]


def deserialize_all(configs: Any, kind: str, custom_objects: Mapping[str, Any] | None = None) -> list[Any]:
    """The objects that `serialize_all` described."""
    with sharing():
        return [deserialize(config, kind, custom_objects) for config in configs]


def _lookup_class(kind: str, config: Mapping[str, Any]) -> Any:
    registered = config.get("registered_name")
    # Keras writes "package>Name" for what users register; the class's own name comes second.
    names = [str(registered)] if registered else []
    for name in names:
        try:
            return lookup(kind, name)
        except ArgumentError:
            pass
    return lookup(kind, config["class_name"])


def get(kind: str, identifier: Any, custom_objects: Mapping[str, Any] | None = None) -> Any:
    """What a user means by a name, a configuration, a class, an object or a function (None stays None).

    >>> get("initializer", "zeros").get_config()
    {}
    """
    if isinstance(identifier, (str, Mapping)):
        return deserialize(identifier, kind, custom_objects)
    if isinstance(identifier, type):
        return identifier()
    if identifier is None or callable(identifier) or hasattr(identifier, "get_config"):
        return identifier
    raise ArgumentError(f"this is not a {kind}", got=repr(identifier), expected="a name, an object or a function")
