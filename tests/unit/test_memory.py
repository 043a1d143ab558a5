"""Giving memory back changes nothing but the memory."""

from __future__ import annotations

import ctypes
from unittest import mock

from sentinel_extproc import memory


def test_the_allocator_is_asked() -> None:
    library = mock.Mock()
    with mock.patch.object(ctypes, "CDLL", return_value=library):
        memory.give_back()
    library.malloc_trim.assert_called_once_with(0)


def test_a_library_without_such_a_call_is_left_alone() -> None:
    with mock.patch.object(ctypes, "CDLL", return_value=object()):
        memory.give_back()
