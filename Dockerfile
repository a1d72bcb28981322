# An image for GPU jobs: code, its data and the locked dependencies. docs/docker.md says how to build and run it.
# The base is any Debian-like image that has Python 3.11 to 3.14 with venv, as python3.
ARG BASE_IMAGE=python:3.13-slim
FROM ${BASE_IMAGE}

WORKDIR /app
ENV PATH=/opt/venv/bin:$PATH

# The dependencies are a layer of their own, so that a change of code does not install them again. CUDA comes with
# torch. The lock is complete and has hashes; with wheels alone, nothing is compiled. The venv is for base images
# whose Python is managed by the system, such as Debian's.
COPY requirements.lock ./
RUN python3 -m venv /opt/venv \
    && pip install --no-cache-dir --no-deps --only-binary :all: --require-hashes -r requirements.lock

# Scripts find configs/ beside their own folder, so the package itself is not needed here after its installation.
# Everyone may write to runs/ and cache/, because `docker run --user` may name anyone. Scripts and configs must be
# readable, whatever the umask they were cloned with.
COPY . .
RUN pip install --no-cache-dir --no-deps --no-build-isolation . \
    && rm -rf build d2l_lightning ./*.egg-info \
    && chmod -R go=u-w . \
    && mkdir runs cache \
    && chmod 1777 runs cache

# NVIDIA_*: the GPUs and the parts of the driver that the NVIDIA runtime mounts, as in NVIDIA's own images.
# HOME and USER: the user has no entry in /etc/passwd, and libraries need a name and a home folder to write to.
ENV NVIDIA_VISIBLE_DEVICES=all \
    NVIDIA_DRIVER_CAPABILITIES=compute,utility \
    D2L_LIGHTNING_CACHE=/app/cache \
    HOME=/tmp \
    USER=d2l \
    PYTHONUNBUFFERED=1

USER 1000:1000
CMD ["python", "experiments/kaggle_house.py"]
