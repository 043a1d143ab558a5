"""The demo's entry: what it says when it can't begin, and that it leaves nothing behind."""

from __future__ import annotations

import io
import sys
import tempfile
from pathlib import Path

import pytest
from rich.console import Console

from sentinel_extproc.demo.main import run_demo

KEYS = {"OPENAI_API_KEY": "o", "ZION_API_URL": "http://z", "ZION_API_KEY": "k"}


@pytest.fixture
def shown() -> io.StringIO:
    return io.StringIO()


@pytest.fixture
def console(shown: io.StringIO) -> Console:
    return Console(file=shown, width=200)


@pytest.fixture
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where temporary folders go."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path


def test_real_services_need_a_users_token(
    console: Console, shown: io.StringIO, monkeypatch: pytest.MonkeyPatch
) -> None:
    with tempfile.TemporaryDirectory(prefix="s-") as short:
        monkeypatch.setattr(tempfile, "tempdir", short)
        assert run_demo(once=True, environ=KEYS, console=console) == 1
        assert list(Path(short).iterdir()) == []
    assert "SENTINEL_DEMO_TOKEN is needed" in shown.getvalue()


def test_sample_traffic_is_never_paid_for(
    console: Console, shown: io.StringIO, monkeypatch: pytest.MonkeyPatch
) -> None:
    with tempfile.TemporaryDirectory(prefix="s-") as short:
        monkeypatch.setattr(tempfile, "tempdir", short)
        environ = KEYS | {"SENTINEL_DEMO_TOKEN": "t"}
        assert run_demo(once=False, traffic=True, environ=environ, console=console) == 1
    assert "--traffic is for the stand-ins" in shown.getvalue()


def test_a_folder_too_long_for_sockets_is_told(
    console: Console, shown: io.StringIO, temporary: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    long = temporary / ("x" * 100)
    long.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(long))
    assert run_demo(once=True, environ={}, console=console) == 1
    assert "set TMPDIR" in shown.getvalue()
    assert list(long.iterdir()) == []


def test_a_missing_package_is_told_with_the_remedy(
    console: Console, shown: io.StringIO, monkeypatch: pytest.MonkeyPatch
) -> None:
    with tempfile.TemporaryDirectory(prefix="s-") as short:
        monkeypatch.setattr(tempfile, "tempdir", short)
        monkeypatch.delitem(sys.modules, "sentinel_extproc.demo.session", raising=False)
        monkeypatch.setitem(sys.modules, "rich.status", None)
        assert run_demo(once=True, environ={}, console=console) == 1
    assert "rich.status is missing" in shown.getvalue()
    assert "pip install '.[demo]' in a checkout" in shown.getvalue()
