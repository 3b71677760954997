# Carat in a container: no root, no compiler and no package manager; it writes only to /var/lib/carat, /backups and /tmp.
# The image is pinned by version. To pin its content as well, append the digest that `docker buildx imagetools inspect
# python:3.11.15-slim` prints: FROM python:3.11.15-slim@sha256:…
FROM python:3.11.15-slim AS build

ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1 PIP_ROOT_USER_ACTION=ignore
WORKDIR /source
RUN ["python", "-m", "venv", "/opt/carat"]
COPY requirements.lock ./
RUN ["/opt/carat/bin/python", "-m", "pip", "install", "--require-hashes", "--only-binary", ":all:", "-r", "requirements.lock"]
COPY pyproject.toml README.md LICENSE NOTICE ./
COPY app ./app
COPY metabase ./metabase
RUN /opt/carat/bin/python -m pip install --no-deps --no-build-isolation . \
    && /opt/carat/bin/python -m pip uninstall --yes setuptools pip \
    && /opt/carat/bin/python -m compileall -q /opt/carat/lib

FROM python:3.11.15-slim

RUN python -m pip uninstall --yes --root-user-action ignore setuptools wheel pip \
    && groupadd --gid 10001 carat \
    && useradd --uid 10001 --gid carat --home-dir /var/lib/carat --no-create-home --shell /usr/sbin/nologin carat \
    && install -d -m 0700 -o carat -g carat /var/lib/carat /var/lib/carat/spool /backups
COPY --from=build /opt/carat /opt/carat
COPY --chmod=0755 deploy/compose/every-hour.sh /usr/local/bin/every-hour

ENV PATH=/opt/carat/bin:$PATH \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONFAULTHANDLER=1 \
    CARAT_LOG=/var/lib/carat/carat.log \
    CARAT_SCRATCH=/tmp/carat \
    CARAT_SPOOL=/var/lib/carat/spool
WORKDIR /var/lib/carat
USER 10001:10001
EXPOSE 8787
HEALTHCHECK --interval=30s --timeout=10s --start-period=30s \
    CMD ["python", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:8787/ready', timeout=5)"]
ENTRYPOINT ["carat"]
CMD ["collect", "--host", "0.0.0.0"]
