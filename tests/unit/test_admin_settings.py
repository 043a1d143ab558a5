"""The admin port's settings: every fault is named, and no token crosses a network unasked."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import SecretStr, ValidationError

from sentinel_extproc.config.admin import admin_faults, admin_token
from sentinel_extproc.config.sections.operating import AdminSettings, Requirement

TOKEN = SecretStr("0123456789abcdef01234567")


def test_the_defaults_are_local_and_without_control() -> None:
    admin = AdminSettings()
    assert admin.listen == "127.0.0.1:9180"
    assert admin_token(admin) is None
    assert admin.ready_requires == (Requirement.OUTBOX,)
    assert admin_faults(admin) == []


def test_a_token_may_come_from_a_file(tmp_path: Path) -> None:
    file = tmp_path / "token"
    file.write_text("0123456789abcdef01234567\n")
    admin = AdminSettings(token_file=file)
    assert admin_token(admin) == "0123456789abcdef01234567"
    assert admin_faults(admin) == []


@pytest.mark.parametrize(
    "content", [b"", b"short", b"x" * 23, b"two words, both long enough", b"\xff" * 30]
)
def test_a_file_without_a_usable_token(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "token"
    file.write_bytes(content)
    (fault,) = admin_faults(AdminSettings(token_file=file))
    assert fault.startswith("admin.token_file: must have")


@pytest.mark.parametrize("chars", [16, 23])
def test_a_token_that_could_be_found_by_trying_is_a_fault_that_says_how_to_make_one(
    tmp_path: Path, chars: int
) -> None:
    file = tmp_path / "token"
    file.write_text("x" * chars)
    for name, admin in (
        ("token", AdminSettings(token=SecretStr("x" * chars))),
        ("token_file", AdminSettings(token_file=file)),
    ):
        (fault,) = admin_faults(admin)
        assert fault.startswith(f"admin.{name}: must have 24 to 512 visible ASCII characters")
        assert "openssl rand -hex 32" in fault
        with pytest.raises(ValueError, match="24"):
            admin_token(admin)
    assert admin_faults(AdminSettings(token=SecretStr("x" * 24))) == []


@pytest.mark.parametrize(
    ("listen", "fine"),
    [
        ("127.0.0.1:9180", True),
        ("127.8.8.8:9180", True),
        ("[::1]:9180", True),
        ("localhost:9180", True),
        ("unix:/run/admin.sock", True),
        ("0.0.0.0:9180", False),
        ("10.0.0.1:9180", False),
        ("[::]:9180", False),
        ("admin.example:9180", False),
    ],
)
def test_a_token_stays_on_this_machine_unless_it_is_encrypted(
    tmp_path: Path, listen: str, fine: bool
) -> None:
    assert admin_faults(AdminSettings(listen=listen)) == []
    faults = admin_faults(AdminSettings(listen=listen, token=TOKEN))
    assert [fault.partition(":")[0] for fault in faults] == ([] if fine else ["admin.listen"])
    assert admin_faults(AdminSettings(listen=listen, token=TOKEN, cleartext_token=True)) == []
    file = tmp_path / "pem"
    file.touch()
    encrypted = AdminSettings(listen=listen, token=TOKEN, tls_cert_file=file, tls_key_file=file)
    assert admin_faults(encrypted) == []


def test_what_does_not_go_together(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("0123456789abcdef01234567")
    missing = tmp_path / "missing"
    for admin, where in (
        (AdminSettings(token=TOKEN, token_file=file), "admin.token_file"),
        (AdminSettings(token=SecretStr("short")), "admin.token"),
        (AdminSettings(tls_cert_file=file), "admin.tls_cert_file"),
        (AdminSettings(tls_key_file=file), "admin.tls_cert_file"),
        (AdminSettings(client_ca_file=file), "admin.client_ca_file"),
        (AdminSettings(token_file=missing), "admin.token_file"),
        (AdminSettings(tls_cert_file=missing, tls_key_file=file), "admin.tls_cert_file"),
    ):
        assert [fault.partition(":")[0] for fault in admin_faults(admin)] == [where]
        assert admin_faults(admin.model_copy(update={"enabled": False})) == []
        assert "short" not in str(admin_faults(admin))


@pytest.mark.parametrize(
    "given",
    [
        {"listen": "9180"},
        {"token": ""},
        {"token": "with blank 0123456789"},
        {"allowed_hosts": ["http://x"]},
        {"allowed_hosts": [""]},
        {"ready_requires": ["moon"]},
    ],
)
def test_values_that_are_none(given: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        AdminSettings.model_validate(given)
