"""Giving memory back changes nothing but the memory."""

from __future__ import annotations

import ctypes
import sys
from importlib import import_module
from unittest import mock

import pytest

from sentinel_extproc import memory


def test_the_allocator_is_asked() -> None:
    library = mock.Mock()
    with mock.patch.object(ctypes, "CDLL", return_value=library):
        memory.give_back()
    library.malloc_trim.assert_called_once_with(0)


def test_a_library_without_such_a_call_is_left_alone() -> None:
    with mock.patch.object(ctypes, "CDLL", return_value=object()):
        memory.give_back()


def test_a_package_that_is_left_out_is_not_there_but_can_be_had_later() -> None:
    sys.modules.pop("wave", None)
    with memory.without("wave"), pytest.raises(ImportError):
        import_module("wave")
    assert import_module("wave").__name__ == "wave"


def test_a_package_that_is_there_already_stays() -> None:
    before = import_module("wave")
    with memory.without("wave"):
        assert import_module("wave") is before
    assert sys.modules["wave"] is before
