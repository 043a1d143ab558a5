"""Finds out what would break where the sidecar is attached to somebody's Envoy.

``load`` and ``admin`` read a file or a running Envoy into a ``Snapshot``; ``diagnose`` turns that
into findings; ``report`` shows them; ``command`` is the command line. In between nothing does I/O.

A finding is an instance of a ``Rule``; the rules stand beside the checks that use them, one module
per part of a configuration. To add one: write the rule, put it into the module's ``RULES``, yield
``RULE.at(where)`` from the check, and add a case to tests/unit/test_doctor_rules.py.
docs/attach/doctor.md is written from the rules by ``make docs``.

Configurations are plain dicts that anybody may have written: ``reading`` is how they are looked
into, and nothing here fails on what it doesn't know.
"""
