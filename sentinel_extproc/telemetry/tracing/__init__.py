"""Traces: facts become spans (``adapter``, ``spans``) and go to an OTLP receiver (``shipper``,
``otlp``) behind everything else. Only ``spans`` and ``otlp`` know OpenTelemetry, and they are
imported only where tracing is on."""
