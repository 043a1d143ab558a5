"""Key files on a disk, as people and Kubernetes change them."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import pytest

from sentinel_extproc.credentials.facts import CredentialFact, KeysRefused, KeysTaken
from sentinel_extproc.credentials.rotation import KeyFileError
from sentinel_extproc.credentials.watch import KeyFile, KeyWatch
from sentinel_extproc.exchange.providers import Kind, upstream_for
from sentinel_extproc.provider_parts import InTurn


def replace(path: Path, text: str) -> None:
    """As a careful person does it."""
    fresh = path.with_name("fresh")
    fresh.write_text(text)
    fresh.rename(path)


def test_a_rename_is_taken(tmp_path: Path) -> None:
    path = tmp_path / "key"
    path.write_text("old\n")
    file = KeyFile("p", path)
    assert file.look() is None
    replace(path, "new\n")
    assert (file.look() or file.look()) == KeysTaken("p", 1)
    assert file.keys == ("new",)


def test_a_secret_mounts_swapped_link_is_followed(tmp_path: Path) -> None:
    for version, key in (("1", "old"), ("2", "new")):
        (tmp_path / version).mkdir()
        (tmp_path / version / "key").write_text(key)
    (tmp_path / "..data").symlink_to("1")
    (tmp_path / "key").symlink_to(Path("..data") / "key")
    file = KeyFile("p", tmp_path / "key")
    (tmp_path / "..next").symlink_to("2")
    (tmp_path / "..next").rename(tmp_path / "..data")
    assert file.look() == KeysTaken("p", 1)
    assert file.keys == ("new",)


def test_writing_in_place_counts_when_it_rests(tmp_path: Path) -> None:
    path = tmp_path / "key"
    path.write_text("old")
    file = KeyFile("p", path)
    path.write_text("newer-key")
    assert file.look() is None
    assert file.keys == ("old",)
    assert file.look() == KeysTaken("p", 1)


def test_a_file_that_goes_or_breaks_leaves_the_keys(tmp_path: Path) -> None:
    path = tmp_path / "key"
    path.write_text("old")
    file = KeyFile("p", path)
    path.unlink()
    assert isinstance(file.look(), KeysRefused)
    assert file.look() is None
    replace(path, "two words")
    # Twice: a file system may give the inode of the old file to the new one.
    assert isinstance(file.look() or file.look(), KeysRefused)
    assert file.keys == ("old",)
    replace(path, "new")
    assert isinstance(file.look() or file.look(), KeysTaken)


def test_it_doesnt_start_without_a_key(tmp_path: Path) -> None:
    with pytest.raises(KeyFileError):
        KeyFile("p", tmp_path / "none")
    (tmp_path / "empty").touch()
    with pytest.raises(KeyFileError):
        KeyFile("p", tmp_path / "empty")
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(KeyFileError):
        KeyFile("p", tmp_path / "pipe")


def test_several_keys_are_used_in_turn_and_changed_ones_from_the_next_request(
    tmp_path: Path,
) -> None:
    path = tmp_path / "key"
    path.write_text("a\nb\n")
    file = KeyFile("p", path)
    upstream = InTurn(file, lambda key: upstream_for(Kind.AZURE, key))
    used = [upstream().credentials[0][1] for _ in range(4)]
    assert sorted(used) == [b"a", b"a", b"b", b"b"]
    replace(path, "c")
    assert file.look() or file.look()
    assert upstream().credentials == (("api-key", b"c"),)


async def test_the_watch_tells_of_changes_and_ends(tmp_path: Path) -> None:
    path = tmp_path / "key"
    path.write_text("old")
    facts: asyncio.Queue[CredentialFact] = asyncio.Queue()
    watch = KeyWatch([KeyFile("p", path)], emit=facts.put_nowait, interval_s=0.01)
    watch.start()
    replace(path, "new")
    async with asyncio.timeout(10):
        assert await facts.get() == KeysTaken("p", 1)
    await watch.aclose()
