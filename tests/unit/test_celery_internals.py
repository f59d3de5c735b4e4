"""What the library relies on inside Celery, kombu and billiard, compared with the release that is installed."""

from __future__ import annotations

import ast
import importlib
import inspect
import re
from collections.abc import Iterator
from typing import Any

import pytest

from celery_progress_ext.celery_internals import INTERNALS, Internal
from tests.support.processes import ROOT

_FOREIGN = ("celery", "kombu", "billiard", "amqp", "vine")
_LIBRARY = ROOT / "celery_progress_ext"
_MODULES = sorted(_LIBRARY.rglob("*.py"))
#: Modules of theirs whose names without an underscore are documented.
_DOCUMENTED = {
    "celery",
    "celery.canvas",
    "celery.exceptions",
    "celery.result",
    "celery.signals",
    "celery.utils.uuid",
    "kombu.exceptions",
    "billiard.exceptions",
}


def _resolve(name: str) -> Any:
    """The object of a dotted path.

    :raises AttributeError: when Celery has it no more.
    """
    parts = name.split(".")
    for length in range(len(parts), 0, -1):
        try:
            found: Any = importlib.import_module(".".join(parts[:length]))
        except ModuleNotFoundError:
            continue
        for part in parts[length:]:
            found = inspect.getattr_static(found, part) if inspect.isclass(found) else getattr(found, part)
        return found
    raise AttributeError(name)


def _only_on_instances(each: Internal) -> bool:
    """An attribute that `__init__` makes, and a class does not show."""
    return each.name.endswith("AsyncResult._cache")


@pytest.mark.parametrize("each", INTERNALS, ids=lambda each: each.name)
def test_celery_still_has_what_the_library_uses(each: Internal) -> None:
    """Same name, same parameters, and the lines of its source that the library counts on."""
    if _only_on_instances(each):
        owner, _, attribute = each.name.rpartition(".")
        assert re.search(rf"\bself\.{attribute} = None", inspect.getsource(_resolve(owner)))
        return
    found = _resolve(each.name)
    if isinstance(found, property):
        found = found.fget
    if each.parameters:
        has = tuple(inspect.signature(found).parameters)
        assert has == tuple(name for name in each.parameters if name in has or name not in each.since)
    if each.source:
        source = inspect.getsource(found)
        assert [fragment for fragment in each.source if fragment not in source] == []
    if each.value is not None:
        assert found == each.value


@pytest.mark.parametrize("each", INTERNALS, ids=lambda each: each.name)
def test_a_row_says_who_uses_it(each: Internal) -> None:
    """The module is there, and says the name; a row that nothing needs any more has to go."""
    path = _LIBRARY / (each.user.replace(".", "/") + ".py")
    called = {
        # What calls into the library's override, or sends what it waits for.
        "run": "_freeze_group_tasks",
        "send_task": "on_task_call",
        "build_tracer": "before_start",
        "SIG_SOFT_TIMEOUT": "SIG_SOFT_TIMEOUT",
    }
    name = each.name.rpartition(".")[2]
    assert called.get(name, name) in path.read_text()


def _foreign_bases(cls: type) -> list[type]:
    return [base for base in cls.__mro__[1:] if base.__module__.split(".")[0] in _FOREIGN]


def _subclasses() -> Iterator[type]:
    """The library's classes that inherit from one of Celery's, kombu's or billiard's."""
    for path in _MODULES:
        # Alembic runs the one; models of Django's can be imported within a site only.
        if path.name == "env.py" or "django" in path.parts:
            continue
        relative = path.relative_to(ROOT).with_suffix("")
        module = importlib.import_module(".".join(relative.parts).removesuffix(".__init__"))
        for cls in vars(module).values():
            if inspect.isclass(cls) and cls.__module__ == module.__name__ and _foreign_bases(cls):
                yield cls


def _listed(name: str) -> bool:
    return any(each.name.rpartition(".")[2] == name for each in INTERNALS)


def test_every_private_name_that_a_subclass_touches_is_listed() -> None:
    """Overrides, and attributes of `self` that are Celery's."""
    touched = set()
    classes = list(_subclasses())
    for cls in classes:
        theirs = "".join(inspect.getsource(base) for base in _foreign_bases(cls))
        own = inspect.getsource(cls)
        for name in set(re.findall(r"(?:self|super\(\)|_last)\.(_[a-z]\w*)|def (_[a-z]\w*)", own)):
            each = name[0] or name[1]
            if re.search(rf"\bself\.{each}\b|def {each}\b", theirs):
                touched.add(each)
    assert {cls.__name__ for cls in classes} >= {"PublishOnceGroup", "TrackedJob", "tracked_chord", "Superseded"}
    assert touched == {"_freeze_group_tasks", "_apply_tasks", "_get_task_meta"}
    assert [name for name in touched if not _listed(name)] == []


def _imports(path: Any) -> Iterator[tuple[str, str]]:
    """(module, name) of each import from the three."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] in _FOREIGN:
            for alias in node.names:
                yield node.module, alias.name
        elif isinstance(node, ast.Import):
            for alias in node.names:
                if alias.name.split(".")[0] in _FOREIGN:
                    yield alias.name, ""


def test_every_import_of_something_undocumented_is_listed() -> None:
    """A new one needs a row, with its reason."""
    found = {pair for path in _MODULES for pair in _imports(path)}
    assert ("celery", "Celery") in found
    rows = {each.name for each in INTERNALS}

    def known(module: str, name: str) -> bool:
        dotted = f"{module}.{name}"
        return module in _DOCUMENTED or dotted in _DOCUMENTED or any(f"{row}.".startswith(f"{dotted}.") for row in rows)

    assert [f"{module}.{name}" for module, name in sorted(found) if not known(module, name)] == []
