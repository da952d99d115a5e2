# The image of every stage: torch, transformers, faiss and `xmas-job`. No Airflow.
#
#   GPU: docker build -f docker/job.Dockerfile --build-arg GIT_SHA=$(git rev-parse HEAD) -t xmas-job .
#   CPU: the same with --build-arg LOCK=docker/locks/job.txt
#
# torch and faiss bring CUDA's libraries as wheels, so the base needs none and the host gives the driver. A base with
# nvcc (--build-arg BASE_IMAGE=a CUDA development image with Python 3.11) is wanted only by DeepSpeed's own kernels.
ARG BASE_IMAGE=python:3.11-slim-bookworm

FROM ${BASE_IMAGE} AS build
ARG LOCK=docker/locks/gpu.txt
RUN python -m venv /opt/xmas
ENV PATH=/opt/xmas/bin:$PATH
WORKDIR /src
COPY ${LOCK} lock.txt
COPY docker/locks/dev.txt tools.txt
# DeepSpeed is no wheel: to be built, it wants torch and numpy to be there, and to be left out where it cannot be used.
RUN pip install --no-cache-dir --quiet --constraint tools.txt setuptools wheel hatchling \
    && grep -E '^(torch|numpy)==' lock.txt > first.txt \
    && pip install --no-cache-dir --quiet --requirement first.txt \
    && pip install --no-cache-dir --quiet --no-build-isolation --requirement lock.txt
COPY pyproject.toml README.md LICENSE ./
COPY xmas_job xmas_job
RUN pip install --no-cache-dir --quiet --no-deps --no-build-isolation . \
    && pip uninstall --yes --quiet hatchling

FROM ${BASE_IMAGE}
ARG GIT_SHA=unknown
LABEL org.opencontainers.image.title=xmas-job org.opencontainers.image.revision=${GIT_SHA}
COPY --from=build /opt/xmas /opt/xmas
RUN useradd --create-home --uid 1000 xmas
# One thread a process on a CPU, as everywhere; the root file system may be read-only, so caches go to the scratch mount.
ENV PATH=/opt/xmas/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    OMP_NUM_THREADS=1 \
    HF_HUB_OFFLINE=1 \
    HF_HOME=/scratch/cache \
    MPLCONFIGDIR=/scratch/cache/matplotlib \
    TRITON_CACHE_DIR=/scratch/cache/triton \
    TMPDIR=/scratch \
    XMAS_SCRATCH=/scratch \
    XMAS_GIT_SHA=${GIT_SHA}
RUN mkdir /scratch && chmod 1777 /scratch
WORKDIR /scratch
USER xmas
ENTRYPOINT ["xmas-job"]
CMD ["--help"]
