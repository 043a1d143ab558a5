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


# What the sidecar runs on, and nothing else: no shell, no package manager, no tool.
FROM environment AS bare
RUN groupadd --gid 10001 sentinel \
    && useradd --uid 10001 --gid sentinel --no-create-home --home-dir / \
        --shell /usr/sbin/nologin sentinel
COPY deploy/image/bare.py /tmp/
# Volumes take over owner and mode of the folders they are first mounted on.
RUN /opt/sentinel/bin/python /tmp/bare.py --environment /opt/sentinel --into /bare \
        --uid 10001 --writable /run/sentinel --writable /var/lib/sentinel


FROM scratch AS serve
COPY --from=bare /bare /
ENV PATH=/opt/sentinel/bin:/usr/local/bin \
    LANG=C.UTF-8 \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1
USER 10001:10001
# Draining is what SIGTERM starts; give it the time that SENTINEL_SERVER__DRAIN_SECONDS allows.
STOPSIGNAL SIGTERM
CMD ["sentinel-extproc", "serve"]
