# The trainer on a CUDA image: TensorFlow, CUDA's libraries and NCCL from pip, as the locks pin them;
# our build of Horovod with NCCL and MPI; the ops for all GPUs that nvcc knows.
#
#   docker build -t dlrm .
#   docker run --gpus=all --ipc=host --ulimit memlock=-1 --rm -it -v /path/to/data:/data dlrm
#   docker build --target test -t dlrm-test . && docker run --gpus=all --rm dlrm-test make test
#
# It runs as any user (--user). Build arguments:
#   TENSORFLOW               a version of locks/matrix.txt from 2.15.1 that has Ubuntu's Python
#   DLRM_CUDA_ARCHITECTURES  docs/gpu.md; "80 90" builds faster than all
#   CUDA, UBUNTU             the base image's; Ubuntu 24.04 has Python 3.12, 22.04 has 3.10
#   SOK                      a version of merlin-sok to compile, for --embedding_backend=sok: up to
#                            TensorFlow 2.15 (docs/sok.md), and it needs the CUDA of --target build:
#                              docker build --target build --build-arg UBUNTU=22.04 \
#                                --build-arg TENSORFLOW=2.15.1 --build-arg SOK=2.1.0 -t dlrm-sok .
ARG CUDA=12.9.1
ARG UBUNTU=24.04

FROM nvidia/cuda:${CUDA}-devel-ubuntu${UBUNTU} AS environment
ARG TENSORFLOW=2.21.0
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
SHELL ["/bin/bash", "-o", "pipefail", "-c"]
# Ubuntu's archive keeps one version of a package.
# hadolint ignore=DL3008
RUN apt-get update \
 && apt-get install -y --no-install-recommends \
      g++ git libopenmpi-dev make openmpi-bin openssh-client python3 python3-venv \
 && rm -rf /var/lib/apt/lists/*
WORKDIR /opt/dlrm
ENV PATH=/opt/dlrm/.venv/bin:$PATH
COPY pyproject.toml ./
COPY locks locks
# The largest layer first: it changes with TensorFlow alone.
RUN python3 -m venv .venv \
 && python -m pip install -c "locks/tensorflow-$TENSORFLOW.txt" pip \
 && python -m pip install -c "locks/tensorflow-$TENSORFLOW.txt" --group gpu
RUN python -m pip install -c "locks/tensorflow-$TENSORFLOW.txt" --group run --group onednn \
      --group horovod --group preprocess --group report --group mlperf --group build
COPY deploy/__init__.py deploy/cuda_links.py deploy/
COPY deploy/horovod deploy/horovod
RUN python -m deploy.cuda_links \
 && deploy/horovod/build.sh --environment .venv --nccl --mpi --output /tmp/wheel \
 && python -m pip install --no-deps --no-index /tmp/wheel/*.whl \
 && rm -rf /tmp/wheel build
ARG SOK=
# It knows these two of the project's GPUs. NCCL's headers are the image's. No lock has its tools.
# hadolint ignore=DL3013
RUN if [ -n "$SOK" ]; then \
      python -m pip install scikit-build \
      && SOK_COMPILE_GPU_SM="80;90" python -m pip install --no-build-isolation --no-deps "merlin-sok==$SOK"; \
    fi

FROM environment AS build
ARG DLRM_CUDA_ARCHITECTURES=all
COPY . .
RUN python setup.py -q build_ext --inplace && rm -rf build

# With compilers, tests and linters. make takes the environment and the ops as up to date.
FROM build AS test
ARG TENSORFLOW=2.21.0
RUN python -m pip install -c "locks/tensorflow-$TENSORFLOW.txt" --group environment \
 && cp "locks/tensorflow-$TENSORFLOW.txt" .venv/constraints.txt \
 && echo gpu >.venv/.device && touch .venv/.ready && touch ops/*.so
CMD ["/bin/bash"]

FROM nvidia/cuda:${CUDA}-base-ubuntu${UBUNTU}
SHELL ["/bin/bash", "-o", "pipefail", "-c"]
# sshd: Kubernetes' MPI operator and horovodrun start ranks on other machines through it.
# hadolint ignore=DL3008
RUN apt-get update \
 && apt-get install -y --no-install-recommends \
      libgomp1 openmpi-bin openssh-client openssh-server python3 \
 && rm -rf /var/lib/apt/lists/* \
 && mkdir -p /run/sshd \
 && sed -i 's/^#\?StrictModes .*/StrictModes no/' /etc/ssh/sshd_config \
 && echo '    StrictHostKeyChecking no' >>/etc/ssh/ssh_config
WORKDIR /opt/dlrm
ENV PATH=/opt/dlrm/.venv/bin:$PATH HOME=/home/dlrm
COPY --from=environment /opt/dlrm/.venv .venv
COPY . .
COPY --from=build /opt/dlrm/ops/*.so ops/
# Any user's home, data and runs.
RUN mkdir -m 1777 /home/dlrm data runs
CMD ["/bin/bash"]
