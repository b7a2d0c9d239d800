# Two images, `--target cpu` and `--target cuda`: docs/docker.md.
# Packages are those of constraints.txt, installed in the Makefile's order (a test compares them).
ARG PYTHON=3.11.14-slim-bookworm

# git: DVC's and the report's; tini: passes signals on as process 1 and reaps orphans. The versions hold for as long as bookworm does.
FROM python:${PYTHON} AS base
RUN apt-get update \
 && apt-get install --yes --no-install-recommends "git=1:2.39.*" "tini=0.19.*" \
 && rm -rf /var/lib/apt/lists/*
WORKDIR /gear

# `pip install` of the project leaves a link to /gear: what lies there, this image's code or a mounted checkout, is what runs.
FROM base AS tools
ENV PATH=/opt/venv/bin:$PATH PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1
COPY pyproject.toml setup.py constraints.txt README.md ./
COPY gear/__init__.py gear/
COPY presets presets/
RUN python3 -m venv /opt/venv \
 && pip install -c constraints.txt --upgrade pip wheel "setuptools<82" ninja

# torch for CPU: its versions end in +cpu, which pip ranks over the same versions of PyPI
FROM tools AS packages-cpu
ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu
RUN pip install -c constraints.txt --extra-index-url "${TORCH_INDEX}" torch torchvision \
 && DS_BUILD_OPS=0 pip install -c constraints.txt --no-build-isolation deepspeed \
 && pip install -c constraints.txt --no-build-isolation -e . \
 && pip check

# torch for CUDA: PyPI's, with CUDA's libraries as packages that constraints.txt pins; the driver is the host's
FROM tools AS packages-cuda
RUN pip install -c constraints.txt torch torchvision \
 && DS_BUILD_OPS=0 pip install -c constraints.txt --no-build-isolation deepspeed \
 && pip install -c constraints.txt --no-build-isolation -e . \
 && pip check

# DVC and the report want a git repository; REVISION says which commit of the project this one was made from
FROM base AS code
ARG REVISION=unknown
COPY . .
RUN git init --quiet --initial-branch=main \
 && git add --all \
 && git -c user.name=image -c user.email=image@localhost commit --quiet --message "GEAR at ${REVISION}" \
 && mkdir -p data reports .gear .dvc/cache .dvc/tmp

# Any user may run it (`--user`): the home is everybody's, and git trusts a checkout that somebody else owns.
FROM base AS runtime
RUN useradd --uid 1000 --no-create-home --home-dir /home/gear gear \
 && install --directory --mode=1777 /home/gear \
 && chown gear:gear /gear \
 && git config --system --add safe.directory "*"
ENV PATH=/opt/venv/bin:$PATH \
    PYTHONPATH=/gear \
    HOME=/home/gear \
    USER=gear \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    DO_NOT_TRACK=1 \
    DVC_NO_ANALYTICS=1 \
    GX_ANALYTICS_ENABLED=false \
    PREFECT_SERVER_ANALYTICS_ENABLED=false \
    HF_HUB_OFFLINE=1 \
    DVC_SITE_CACHE_DIR=/tmp/dvc \
    GEAR_CHECKOUT=/gear
USER 1000:1000
# `docker stop` is a Ctrl-C to the whole group: the stage saves its state, and DVC, which would die of SIGTERM at once, waits for it
STOPSIGNAL SIGINT
ENTRYPOINT ["tini", "-g", "--"]
CMD ["gear", "--help"]
# a stage could start: the packages are there and the checkout's params.yaml is valid; loads no torch
HEALTHCHECK --interval=60s --timeout=20s --start-period=10s --retries=3 CMD ["python", "-c", "from gear.params import load; load()"]

FROM runtime AS cpu
COPY --from=packages-cpu /opt/venv /opt/venv
COPY --from=code --chown=1000:1000 /gear /gear

FROM runtime AS cuda
USER 0
# host.compile needs a C++ compiler
RUN apt-get update \
 && apt-get install --yes --no-install-recommends "g++=4:12.*" \
 && rm -rf /var/lib/apt/lists/*
USER 1000:1000
ENV NVIDIA_VISIBLE_DEVICES=all NVIDIA_DRIVER_CAPABILITIES=compute,utility NVIDIA_REQUIRE_CUDA="cuda>=13.0"
COPY --from=packages-cuda /opt/venv /opt/venv
COPY --from=code --chown=1000:1000 /gear /gear
