# One image for workers, Flower and producers: what a container is, its command says.
#
#   docker compose build                                                  with what the demo's model, file-type, imports
#   docker compose build --build-arg MODEL_REQUIREMENTS="scikit-learn"    with what models of your own import instead
#
# Models of your own come as files into the work directory, /app, which is on the path of every worker:
#
#   mounted        in a docker-compose.override.yml, so that a change needs a restart and no build:
#                      services:
#                        worker:
#                          environment: {FORESEEN_MODELS: shout}
#                          volumes: ["./shout.py:/app/shout.py:ro"]
#   built in       in a Dockerfile of your own, for what is to be shipped:
#                      FROM foreseen
#                      USER root
#                      RUN python -m ensurepip && python -m pip install --no-cache-dir scikit-learn \
#                       && python -m pip uninstall --yes pip setuptools
#                      USER foreseen
#                      COPY shout.py /app/        and FORESEEN_IMAGE, FORESEEN_MODELS in .env, see docs/compose.md
#
# A package index of your own, without a trace of it in the image:
#
#   docker build --secret id=pip,src=$HOME/.config/pip/pip.conf -t foreseen .

# ---------------------------------------------------------------------------------------------------------------- build

FROM python:3.11-slim AS build

ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_ROOT_USER_ACTION=ignore
WORKDIR /build

# Without pip: the virtual environment travels to the image that runs, the tools that fill it stay here.
RUN python -m venv --without-pip /opt/foreseen

# First what changes seldom: three empty packages stand for the code, so that its changes leave this layer alone.
ARG EXTRAS=workers,flower,cli,metrics,reload
ARG MODEL_REQUIREMENTS=magika
COPY pyproject.toml constraints.txt ./
RUN --mount=type=cache,target=/root/.cache/pip --mount=type=secret,id=pip,target=/etc/pip.conf \
    touch README.md LICENSE \
 && mkdir foreseen producer workers \
 && touch foreseen/__init__.py producer/__init__.py workers/__init__.py \
 && pip --python /opt/foreseen/bin/python install --constraint constraints.txt ".[${EXTRAS}]" ${MODEL_REQUIREMENTS} \
 && pip --python /opt/foreseen/bin/python uninstall --yes foreseen \
 && pip install --constraint constraints.txt hatchling

# Then the code, as a wheel; the build backend is there already, so this needs no network.
COPY . .
RUN pip wheel --no-deps --no-index --no-build-isolation --wheel-dir /dist .

# ------------------------------------------------------------------------------------------------------------------ run

FROM python:3.11-slim

# A number, so that whoever insists on a user other than root can see that it is one.
RUN groupadd --system --gid 10001 foreseen \
 && useradd --system --uid 10001 --gid foreseen --home-dir /app --no-create-home --shell /usr/sbin/nologin foreseen

# Two layers: a change of the code makes only the second, small one anew. Both are root's: what runs cannot change them.
# The tools that the base image brings to install things have done their last, and go.
COPY --from=build /opt/foreseen /opt/foreseen
RUN --mount=type=bind,from=build,source=/dist,target=/dist \
    pip --python /opt/foreseen/bin/python install --no-cache-dir --no-deps --no-index /dist/*.whl \
 && pip --disable-pip-version-check uninstall --yes --root-user-action=ignore pip setuptools wheel

WORKDIR /app
# Not in the wheel: these are this deployment's settings, and no other Celery app's.
COPY celeryconfig.py ./

# ONNX Runtime, which Magika runs on, would else report to its makers as soon as it is imported.
ENV PATH=/opt/foreseen/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    CELERY_CONFIG_MODULE=celeryconfig \
    ORT_DISABLE_TELEMETRY=1

# Tries what every container starts with; and leaves the compiled form of the standard library's modules that it needs,
# which the base image lacks and a read-only container could not keep.
RUN celery -A workers report >/dev/null && rm -rf /app/__pycache__

USER 10001:10001
CMD ["celery", "-A", "workers", "worker", "--loglevel=INFO"]
