"""The three signs of failure: each is found by a run's own numbers, and named with the setting to change."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from support.commands import TINY, run
from support.finished_runs import Runs
from unseen_diffusion.reports.result import RunResult, read_results
from unseen_diffusion.reports.signatures import signatures

Change = Callable[[dict[str, Any]], None]


def psnr(clean: float, noisy: float) -> Change:
    def change(results: dict[str, Any]) -> None:
        results["reconstruction"] = {"eta0": {"psnr": clean}, "eta0.3": {"psnr": noisy}}

    return change


def classified(share: float, high: float) -> Change:
    def change(results: dict[str, Any]) -> None:
        results["rows"][0] |= {"target_classifier": share, "target_classifier_high": high}

    return change


def kept(share: float, high: float) -> Change:
    def change(results: dict[str, Any]) -> None:
        results["selection"]["acceptance"] |= {"share": share, "high": high}

    return change


RULES = [
    (psnr(35, 30), []),
    (psnr(19.9, 15), [("low reconstruction quality", "solver.steps")]),
    (psnr(35, 19.9), [("low reconstruction quality", "bandwidth.eta")]),
    (classified(0.2, 0.49), [("samples look like the training domain", "mixing.t")]),
    (classified(0.45, 0.55), []),
    (classified(-0.1, 0.02), [("samples look like the training domain", "mixing.t")]),
    (kept(0.01, 0.03), [("high rejection", "tolerances.coverage")]),
    (kept(0.04, 0.06), []),
    (kept(0.0, 0.0), [("high rejection", "tolerances=calibrated")]),
]


@pytest.mark.parametrize(("change", "expected"), RULES)
def test_each_sign_has_its_rule(tmp_path: Path, change: Change, expected: list[tuple[str, str]]) -> None:
    """Thresholds: 20 dB, half of the samples, 5% of the candidates; where there is an interval, all of it."""
    path = Runs(tmp_path).run("full", eta=0.3, change=change)
    [result] = read_results([path], RunResult)
    found = signatures(result)
    assert [one.name for one in found] == [name for name, _ in expected]
    assert all(word in one.remedy for one, (_, word) in zip(found, expected, strict=True))


def test_controls_have_none(tmp_path: Path) -> None:
    """The base model's own samples are meant to look like the training domain."""
    path = Runs(tmp_path).run("base_samples", change=classified(0.0, 0.1), prior=None)
    assert signatures(read_results([path], RunResult)[0]) == []


def test_log_table_and_report_name_them(
    here: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run with absolute tolerances at d = 768 keeps few candidates; theory says so before the inversion."""
    arguments = [*TINY, "tolerances=paper", "rejection.allow_fewer=true", "rejection.route=exact_statistics"]
    arguments += ["prior=isotropic", "tolerances.tolerance.pair_distance=null", "rejection.max_proposals=20000"]
    assert run("run", *arguments, "hydra.run.dir=out") == 0
    said = capsys.readouterr().out
    log = Path("out/run.log").read_text()
    assert log.index("expected 1.1% at d = 768") < log.index("invert computed") < log.index("high rejection: ")
    assert "sign of failure: digits8" in said
    monkeypatch.setenv("COLUMNS", "70")
    assert run("table", "out") == 0
    below = capsys.readouterr().out.partition("sign of failure")[2]
    assert "high rejection" in " ".join(below.split())
    assert max(map(len, below.splitlines())) <= 70
    assert run("report", "out", "-o", "page.html") == 0
    page = Path("page.html").read_text()
    assert "Sign of failure: " in page
    assert "theory 1.1%" in page
