# Airflow with the DAGs: scheduler, API server, workers, triggerer. No torch: stages run in containers of the job image.
#
#   docker build -f docker/airflow.Dockerfile --build-arg GIT_SHA=$(git rev-parse HEAD) -t xmas-airflow .
ARG BASE_IMAGE=python:3.11-slim-bookworm

FROM ${BASE_IMAGE} AS build
RUN python -m venv /opt/airflow-venv
ENV PATH=/opt/airflow-venv/bin:$PATH
WORKDIR /src
COPY docker/locks/airflow.txt lock.txt
COPY docker/locks/dev.txt tools.txt
RUN pip install --no-cache-dir --quiet --constraint tools.txt hatchling \
    && pip install --no-cache-dir --quiet --requirement lock.txt
COPY pyproject.toml README.md LICENSE ./
COPY xmas_job xmas_job
RUN pip install --no-cache-dir --quiet --no-deps --no-build-isolation . \
    && pip uninstall --yes --quiet hatchling

FROM ${BASE_IMAGE}
ARG GIT_SHA=unknown
LABEL org.opencontainers.image.title=xmas-airflow org.opencontainers.image.revision=${GIT_SHA}
COPY --from=build /opt/airflow-venv /opt/airflow-venv
COPY dags /opt/airflow/dags
RUN useradd --create-home --uid 50000 airflow && chown airflow /opt/airflow
ENV PATH=/opt/airflow-venv/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    AIRFLOW_HOME=/opt/airflow \
    AIRFLOW__CORE__LOAD_EXAMPLES=False \
    XMAS_LAUNCHER=docker \
    XMAS_GIT_SHA=${GIT_SHA}
WORKDIR /opt/airflow
USER airflow
ENTRYPOINT ["airflow"]
CMD ["version"]
