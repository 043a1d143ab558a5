"""Sentinel ext_proc: an Envoy external-processing sidecar that governs LLM traffic."""

__version__ = "0.1.0"
