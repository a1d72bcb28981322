# An image for GPU jobs: code, its data and the locked dependencies. README.md tells how to build and run it.
# The base is any Debian-like image that has Python 3.11 to 3.14 with venv, as python3.
ARG BASE_IMAGE=python:3.13-slim
FROM ${BASE_IMAGE}

WORKDIR /app
ENV PATH=/opt/venv/bin:$PATH

# The dependencies are a layer of their own, which a change of code leaves as it is. CUDA comes with torch; the
# lock is complete and hashed, and with wheels alone nothing is compiled. The venv is for bases whose own
# Python is managed by the system, as Debian's is.
COPY requirements.lock ./
RUN python3 -m venv /opt/venv \
    && pip install --no-cache-dir --no-deps --only-binary :all: --require-hashes -r requirements.lock

# The install is editable because configs/ is found beside the package. runs/ and cache/ are open to everyone
# since `docker run --user` may name anyone; the code has to be readable whatever the umask it was cloned with.
COPY . .
RUN pip install --no-cache-dir --no-deps --no-build-isolation -e . \
    && rm -rf build ./*.egg-info \
    && chmod -R go=u-w . \
    && mkdir runs cache \
    && chmod 1777 runs cache

# NVIDIA_*: the GPUs and the parts of the driver that the NVIDIA runtime hands in, as in NVIDIA's own images.
# HOME and USER: whoever runs this has no entry in /etc/passwd, and libraries want a home to write to and a name.
ENV NVIDIA_VISIBLE_DEVICES=all \
    NVIDIA_DRIVER_CAPABILITIES=compute,utility \
    D2L_LIGHTNING_CACHE=/app/cache \
    HOME=/tmp \
    USER=d2l \
    PYTHONUNBUFFERED=1

USER 1000:1000
# As Ctrl-C: a run says how far it has come. Outside a fit, Python as process 1 does not heed the usual signal.
STOPSIGNAL SIGINT
CMD ["python", "experiments/kaggle_house.py"]
