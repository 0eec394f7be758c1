"""What every module promises: a first sentence, one job, and public names that exist and are explained."""

from __future__ import annotations

import ast
import importlib
import inspect

import pytest

from tests.adapters.django_project.ready import make_ready
from tests.project.support import PACKAGE, Module, modules, public_modules

# House style says about 400 lines; from here on a module has two jobs.
MOST_LINES = 450


@pytest.mark.parametrize("module", modules(), ids=str)
def test_a_module_says_first_what_it_is_for(module: Module) -> None:
    docstring = ast.get_docstring(module.tree)
    assert docstring, f"{module.path} has no docstring"
    first = docstring.split("\n\n")[0].strip()
    assert first.endswith((".", ":")), (
        f"the docstring of {module.name} does not open with a sentence: {first!r}"
    )


def test_every_folder_of_modules_is_a_package_that_says_what_it_holds() -> None:
    folders = {module.path.parent for module in modules()}
    bare = [str(folder.relative_to(PACKAGE)) for folder in folders if not (folder / "__init__.py").exists()]
    assert not bare, f"no __init__.py in {sorted(bare)}; type checkers and import rules would pass it by"


@pytest.mark.parametrize("module", modules(), ids=str)
def test_a_module_is_short_enough_to_be_read(module: Module) -> None:
    lines = len(module.text.splitlines())
    assert lines <= MOST_LINES, f"{module.name} has {lines} lines; split it by its jobs"


@pytest.mark.parametrize("module", public_modules(), ids=str)
def test_the_public_names_of_a_module_exist_and_are_explained(module: Module) -> None:
    if module.name.startswith("streamchat.adapters.django"):
        make_ready()  # models can be imported only where there is a project
    loaded = importlib.import_module(module.name)
    names = getattr(loaded, "__all__", None)
    if names is None:
        assert not module.binds_names, f"{module.name} has no __all__"
        return
    assert len(set(names)) == len(names), f"{module.name}.__all__ names something twice"
    missing = [name for name in names if not hasattr(loaded, name)]
    assert not missing, f"{module.name}.__all__ names what is not there: {missing}"
    silent = [
        name
        for name in names
        if (inspect.isclass(thing := getattr(loaded, name)) or inspect.isfunction(thing))
        and getattr(thing, "__module__", "").startswith("streamchat")
        and not (thing.__doc__ or "").strip()
    ]
    assert not silent, f"{module.name}: no docstring on {silent}"


def test_a_star_import_brings_every_public_name() -> None:
    namespace: dict[str, object] = {}
    exec("from streamchat import *", namespace)
    import streamchat

    assert set(streamchat.__all__) - {"__version__"} <= set(namespace)
