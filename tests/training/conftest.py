"""Trainings in the tests draw few samples."""

import pytest

from unseen_diffusion.training import samples


@pytest.fixture(autouse=True)
def small_sheets(monkeypatch: pytest.MonkeyPatch) -> None:
    """Four samples on a sheet."""
    monkeypatch.setattr(samples, "SHEET", 4)
