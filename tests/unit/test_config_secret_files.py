"""Secrets from a folder of files, as Kubernetes mounts them."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from sentinel_extproc.config.load import UNSET_URL, ConfigError, load
from sentinel_extproc.config.secret_files import MAX_BYTES, read_secret_files


@pytest.fixture(autouse=True)
def clean(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in list(os.environ):
        if name.startswith(("SENTINEL_", "ZION_", "OPENAI_", "REDIS_")) or "CACHE_TTL" in name:
            monkeypatch.delenv(name)
    monkeypatch.setenv("SENTINEL_SECRETS_DIR", str(tmp_path))


def mounted(folder: Path, **secrets: str) -> None:
    """As the kubelet does it: files are links into a folder with a dotted name."""
    (folder / "..data").mkdir(exist_ok=True)
    for name, value in secrets.items():
        file = name.replace("__", ".")
        (folder / "..data" / file).write_text(value)
        (folder / file).symlink_to(Path("..data") / file)


def test_secrets_come_from_files(tmp_path: Path) -> None:
    mounted(
        tmp_path,
        provider__api_key="sk-1\n",
        zion__api_key="z-2",
        zion__url="http://zion:3000",
        redis__url="redis://:pw@r:1/2\r\n",
    )
    settings = load()
    assert settings.provider.api_key is not None
    assert settings.provider.api_key.get_secret_value() == "sk-1"
    assert settings.zion.api_key.get_secret_value() == "z-2"
    assert settings.zion.url == "http://zion:3000"
    assert settings.redis.url == "redis://:pw@r:1/2"


def test_the_environment_wins_over_files_and_those_over_the_configuration(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    secrets = tmp_path / "secrets"
    secrets.mkdir()
    monkeypatch.setenv("SENTINEL_SECRETS_DIR", str(secrets))
    mounted(secrets, provider__api_key="sk-file", zion__api_key="z-file")
    monkeypatch.setenv("OPENAI_API_KEY", "sk-environment")
    file = tmp_path / "config.yaml"
    file.write_text("zion: {url: 'http://z', api_key: z-yaml}\n")
    settings = load(file)
    assert settings.provider.api_key is not None
    assert settings.provider.api_key.get_secret_value() == "sk-environment"
    assert settings.zion.api_key.get_secret_value() == "z-file"


def test_every_faulty_file_is_named_and_no_value_shown(tmp_path: Path) -> None:
    mounted(tmp_path, provider__api_key="sk secret", zion__api_key="z", zion__url="http://z")
    (tmp_path / "README").write_text("secret")
    (tmp_path / "zion.nonsense").write_text("secret")
    (tmp_path / "redis.url").write_bytes(b"\xff")
    (tmp_path / "admin.token").write_text("secret" * MAX_BYTES)
    with pytest.raises(ConfigError) as caught:
        load()
    faults = caught.value.faults
    assert len(faults) == 5
    for part in ("README: must be called", "redis.url: not UTF-8", "admin.token: larger than"):
        assert any(part in fault for fault in faults), part
    assert any(fault.startswith("provider.api_key: must be visible") for fault in faults)
    assert "zion.nonsense: there is no such setting" in faults
    assert "secret" not in "".join(faults).replace(str(tmp_path), "")


def test_a_folder_that_is_not_there_is_a_fault(tmp_path: Path) -> None:
    assert read_secret_files(tmp_path / "nowhere") == (
        {},
        [f"{tmp_path / 'nowhere'}: No such file or directory"],
    )


def test_to_render_no_secret_and_no_file_is_needed(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("SENTINEL_ZION__CA_FILE", "/nowhere/ca.pem")
    with pytest.raises(ConfigError):
        load()
    settings = load(to_serve=False)
    assert settings.zion.url == UNSET_URL
    monkeypatch.setenv("SENTINEL_LIMITS__REQUESTS", "none")
    with pytest.raises(ConfigError):
        load(to_serve=False)
