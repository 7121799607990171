"""What the packages offer at their top: `__all__`, what type checkers see and what one gets agree."""

from __future__ import annotations

import ast
import importlib
import inspect
from types import ModuleType

import pytest

PACKAGES = ("cls_runtime", "cls_exporter")


def names_for_type_checkers(package: ModuleType) -> dict[str, str]:
    """The module that each public name is imported from in the source of `__init__`, under TYPE_CHECKING or not."""
    tree = ast.parse(inspect.getsource(package))
    imports = [node for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) and str(node.module).startswith(f"{package.__name__}.")]
    return {item.name: str(node.module) for node in imports for item in node.names}


@pytest.fixture(params=PACKAGES)
def package(request: pytest.FixtureRequest) -> ModuleType:
    return importlib.import_module(request.param)


def test_type_checkers_see_what_all_lists(package: ModuleType) -> None:
    assert len(package.__all__) == len(set(package.__all__))
    assert set(package.__all__) - {"__version__"} == set(names_for_type_checkers(package))


def test_each_name_is_what_the_module_has_that_type_checkers_look_into(package: ModuleType) -> None:
    for name, module in names_for_type_checkers(package).items():
        assert getattr(package, name) is getattr(importlib.import_module(module), name), name


def test_what_is_offered_is_listed_and_nothing_else_is_offered(package: ModuleType) -> None:
    assert set(package.__all__) <= set(dir(package))
    with pytest.raises(AttributeError, match="has no attribute 'encode_everything'"):
        package.encode_everything  # noqa: B018


def test_every_error_is_public(package: ModuleType) -> None:
    errors = importlib.import_module(f"{package.__name__}.errors")
    defined = {name for name, item in vars(errors).items() if inspect.isclass(item) and item.__module__ == errors.__name__}
    assert defined
    assert defined <= set(package.__all__)


def test_what_checks_a_bundle_is_public() -> None:
    """By the names that the documentation uses."""
    import cls_runtime

    assert {"verify", "compare_bundles", "require_compatible", "assert_same_vectors"} <= set(cls_runtime.__all__)
