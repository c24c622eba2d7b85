"""Without a network: one line with a remedy, without retries."""

import socket
import time
from pathlib import Path

import pytest

from support.commands import TINY, run
from unseen_diffusion.domains.hub import Hub
from unseen_diffusion.utils.errors import InputError


def test_a_hub_that_does_not_answer_is_asked_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Every socket is refused; nothing waits to try again (25 s and more with the libraries' own retries)."""
    import datasets
    from huggingface_hub import close_session, constants

    asked: list[object] = []
    waited: list[float] = []

    def refuse(self: socket.socket, address: object) -> None:
        asked.append(address)
        raise ConnectionRefusedError(111, "Connection refused")

    caplog.set_level("INFO")
    close_session()  # made while the tests' setting, offline, held
    for module in (datasets.config, constants):
        monkeypatch.setattr(module, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path)
    for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(time, "sleep", waited.append)
    with pytest.raises(InputError, match=r"^nobody/nothing: cannot be loaded \([^\n]*\); check domain\.id[^\n]*$"):
        Hub(id="nobody/nothing").pool(8, 3)
    close_session()
    assert asked == [("127.0.0.1", 9)]
    assert not waited
    assert "http://127.0.0.1:9 does not answer" in caplog.text
    assert not constants.HF_HUB_OFFLINE  # as before


def test_inception_that_cannot_be_downloaded_says_what_to_do(
    here: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("http_proxy", "HTTP_PROXY", "ALL_PROXY", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
    url = "http://127.0.0.1:9/inception-2015-12-05.pt"  # the discard port: nothing listens
    small = [word for word in TINY if not word.startswith("features")]
    assert run("run", *small, "features=inception", f"+features.url={url}", "features.cache=cache") != 0
    said = capsys.readouterr()
    (log,) = Path("outputs").rglob("run.log")
    line = log.read_text().splitlines()[-1]
    assert "Traceback" not in said.err + said.out + log.read_text()
    assert f"cannot download {url} (" in line
    assert str(Path("cache") / "inception-2015-12-05.pt") in line
    assert "features.path" in line
    assert not list(Path("outputs").rglob("results.json"))
