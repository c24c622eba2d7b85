"""Fixtures of the store's tests."""

import pytest

from support.store_workers import Workers, run_workers


@pytest.fixture(scope="session")
def workers(tmp_path_factory: pytest.TempPathFactory) -> Workers:
    """Reports of processes that were killed, or shared their work."""
    return run_workers(tmp_path_factory.mktemp("workers"))
