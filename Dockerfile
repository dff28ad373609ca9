# The image that build.sh builds and train.sh runs: a CUDA base image, Python, the lock, this code.
#
#   BASE_IMAGE  Ubuntu 24.04 (Python 3.12) or Debian 12 (3.11) with NVIDIA's environment variables. The lock
#               brings the CUDA 13.0 libraries itself, so the smallest CUDA image is enough.
#   COMMIT      commit of the code, for the run's manifest
#   VERSION     version of the code, for the image's label
ARG BASE_IMAGE=nvidia/cuda:13.0.2-base-ubuntu24.04
FROM ${BASE_IMAGE}

# gcc, g++, libc6-dev and python3-dev: Triton compiles a C stub for every kernel when it is first used, and
# torch.compile some C++ for what it leaves on the CPU.
# tini: as PID 1 it passes TERM and INT on and reaps the data loader's children, also where nobody says --init.
# Versions are not pinned: a distribution's mirror keeps only its newest, so a pin would break the build.
# hadolint ignore=DL3008
RUN apt-get update \
    && DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends \
        ca-certificates g++ gcc libc6-dev python3 python3-dev python3-venv tini \
    && rm -rf /var/lib/apt/lists/* /var/log/apt /var/log/dpkg.log

# The three mount points belong to the image's own user, so that named volumes work too.
RUN groupadd --gid 10001 trainer \
    && useradd --uid 10001 --gid trainer --no-create-home --home-dir /tmp --shell /usr/sbin/nologin trainer \
    && install -d -o trainer -g trainer /cache /outputs /job

# Only the lock decides about this layer. The cache mount is not part of it: it spares a build that was cut off,
# or that follows a new lock, the 3 GB it has downloaded already.
COPY requirements.txt /opt/gptoss_ft/
RUN --mount=type=cache,target=/root/.cache/pip \
    python3 -m venv /opt/venv \
    && /opt/venv/bin/pip install --disable-pip-version-check --no-input --progress-bar off \
        --no-deps --require-hashes -r /opt/gptoss_ft/requirements.txt

# .dockerignore is an allow-list. The modes are set here because they come from the builder's umask; the
# bytecode is written here because the user of the container cannot.
COPY . /opt/gptoss_ft/
RUN chmod -R u=rwX,go=rX /opt/gptoss_ft && /opt/venv/bin/python -m compileall -q /opt/gptoss_ft

# HOME, USER and LOGNAME: any uid works, with or without a passwd entry.
ENV PATH=/opt/venv/bin:${PATH} \
    HOME=/tmp \
    USER=trainer \
    LOGNAME=trainer \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    HF_HOME=/cache/huggingface \
    GPTOSS_FT_CACHE=/cache \
    GPTOSS_FT_OUTPUT_ROOT=/outputs

USER 10001:10001
WORKDIR /job
HEALTHCHECK NONE

# The shell sets the umask (train.sh passes its caller's) and is replaced by Python. No CUDA banner.
ENTRYPOINT ["/usr/bin/tini", "--", "/bin/sh", "-c", \
    "umask \"${GPTOSS_FT_UMASK:-022}\" && exec /opt/venv/bin/python /opt/gptoss_ft/train.py \"$@\"", "train.py"]
CMD ["--help"]

# Last, because they change with every commit.
ARG COMMIT=""
ARG VERSION=""
ENV GPTOSS_FT_COMMIT=${COMMIT}
LABEL org.opencontainers.image.title="gptoss_ft" \
      org.opencontainers.image.description="One YAML file in, a fine-tuned gpt-oss-20b out" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${COMMIT}"
