# Two targets: `serve` (the last, so the default) is the sidecar and nothing else;
# `standins` adds what docker-compose.yml needs to play OpenAI and Zion.
# Everything installed is pinned by version and hash in requirements/.

FROM python:3.11-slim-bookworm AS base
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 \
    PIP_NO_CACHE_DIR=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1


# The build back end comes from the same lock, so that no step resolves anything by itself.
FROM base AS build
WORKDIR /src
COPY requirements/dev.txt requirements/
RUN python -m venv /opt/sentinel \
    && /opt/sentinel/bin/pip install --require-hashes -r requirements/dev.txt
COPY pyproject.toml README.md LICENSE NOTICE CHANGELOG.md ./
COPY proto proto
COPY sentinel_extproc sentinel_extproc
RUN /opt/sentinel/bin/python -m build --wheel --no-isolation --outdir /dist


FROM base AS environment
COPY requirements/serve.txt requirements/
RUN python -m venv /opt/sentinel \
    && /opt/sentinel/bin/pip install --require-hashes -r requirements/serve.txt
COPY --from=build /dist /dist
RUN /opt/sentinel/bin/pip install --no-deps /dist/*.whl \
    && /opt/sentinel/bin/pip uninstall --yes pip


FROM build AS standins
RUN /opt/sentinel/bin/pip install --no-deps /dist/*.whl
ENV PATH=/opt/sentinel/bin:$PATH
WORKDIR /
USER 10001:10001


FROM base AS serve
# Volumes take over owner and mode of the folders they are first mounted on.
RUN groupadd --gid 10001 sentinel \
    && useradd --uid 10001 --gid sentinel --no-create-home --shell /usr/sbin/nologin sentinel \
    && install --directory --owner sentinel --group sentinel --mode 0750 \
        /run/sentinel /var/lib/sentinel
COPY --from=environment /opt/sentinel /opt/sentinel
ENV PATH=/opt/sentinel/bin:$PATH
USER 10001:10001
# Draining is what SIGTERM starts; give it the time that SENTINEL_SERVER__DRAIN_SECONDS allows.
STOPSIGNAL SIGTERM
CMD ["sentinel-extproc", "serve"]
