"""Shared by tests that run programs."""

import pytest

from taxonomy.errors import UserError
from taxonomy.inference import sandbox


@pytest.fixture(scope="session")
def programs() -> tuple[str, ...]:
    """Which walls the kernel puts around programs here; skips where none can be run safely."""
    try:
        return sandbox.protection()
    except UserError as error:
        pytest.skip(str(error))


@pytest.fixture(scope="session")
def walled(programs) -> None:
    """Skips where the kernel's walls do not stand."""
    if "files" not in programs:
        pytest.skip("the kernel lets its user make no namespaces")
