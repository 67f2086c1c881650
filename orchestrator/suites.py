"""The contract as tests for plugin authors: subclass one of these classes in a test module."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

from orchestrator.contracts import (
    Broken,
    Check,
    check_reference,
    check_stage,
    find_offer,
    list_checks,
    perform,
    same_bytes,
)
from orchestrator.errors import PluginError
from orchestrator.plugins import load_registry
from orchestrator.stage import StageSpec, spec_of


class PluginContract:
    """Subclass it in a test module and set ``plugin``: every check of ``orchestrate check-plugin`` becomes a test."""

    plugin: ClassVar[str]
    #: False leaves out the checks that run stages.
    execute: ClassVar[bool] = True

    def pytest_generate_tests(self, metafunc: Any) -> None:
        """Make one test of each check; called by pytest."""
        if "contract_check" in metafunc.fixturenames:
            try:
                checks = list(list_checks(find_offer(self.plugin), execute=self.execute))
            except PluginError as error:
                checks = [("loads", f"plugin {self.plugin}", functools.partial(_raise, error))]
            metafunc.parametrize("contract_check", checks, ids=[f"{subject}: {check}" for check, subject, _ in checks])

    def test_contract(self, contract_check: tuple[str, str, Callable[[], str]]) -> None:
        """The plugin keeps this rule."""
        _expect(perform(*contract_check))


class StageContract:
    """Subclass it and set ``stage`` (and ``config``; override ``inputs``): the contract of one stage, installed or not."""

    stage: ClassVar[Callable[..., Any]]
    config: ClassVar[Any] = None

    def inputs(self, folder: Path) -> dict[str, Any]:  # noqa: ARG002 - for subclasses
        """Return the artifacts to run on; write them below ``folder``."""
        return {}

    def test_signature(self) -> None:
        """Name, version, docstring and settings are as the contract asks."""
        _expect(perform("signature and settings", "", functools.partial(check_stage, self._spec(), load_registry())))

    def test_reference(self) -> None:
        """Workers find the function by its import path."""
        _expect(perform("travels by reference", "", functools.partial(check_reference, self._spec())))

    def test_same_inputsame_bytes(self, tmp_path: Path) -> None:
        """Two runs in two homes give the same bytes."""
        from orchestrator.testing import run_stage

        function = type(self).stage
        made = []
        for name in ("first", "second"):
            run = run_stage(function, self.config, inputs=self.inputs(tmp_path / name), home=tmp_path / name / "home")
            made.append({output: one.digest for output, one in run.outputs.items()})
        same_bytes(made[0], made[1])

    def _spec(self) -> StageSpec:
        return spec_of(type(self).stage)


def _raise(error: Exception) -> str:
    raise error


def _expect(done: Check) -> None:
    if done.status == "skipped":
        import pytest

        pytest.skip(done.detail)
    if done.status == "failed":
        raise Broken(f"{done.subject}: {done.check}: {done.detail}".lstrip(": "))
