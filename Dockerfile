# The trainer on a CUDA image: TensorFlow, CUDA libraries and NCCL from pip, pinned by the locks;
# Horovod built with NCCL and MPI; the ops for all GPUs that nvcc supports.
#
#   docker build -t dlrm .
#   docker run --gpus=all --ipc=host --ulimit memlock=-1 --rm -it -v /path/to/data:/data dlrm
#   docker build --target test -t dlrm-test . && docker run --gpus=all --rm dlrm-test make test
#
# Any user can run the image (--user). Build arguments:
#   TENSORFLOW               2.15.1 or later from locks/matrix.txt, for the image's Python
#   DLRM_CUDA_ARCHITECTURES  see docs/gpu.md; "80 90" builds faster than all
#   CUDA, UBUNTU             base image; Ubuntu 24.04 has Python 3.12, 22.04 has 3.10
#   SOK                      merlin-sok version to compile for --embedding_backend=sok; needs
#                            TensorFlow 2.15 or earlier (docs/sok.md) and --target build, for CUDA:
#                              docker build --target build --build-arg UBUNTU=22.04 \
#                                --build-arg TENSORFLOW=2.15.1 --build-arg SOK=2.1.0 -t dlrm-sok .
ARG CUDA=12.9.1
ARG UBUNTU=24.04

FROM nvidia/cuda:${CUDA}-devel-ubuntu${UBUNTU} AS environment
ARG TENSORFLOW=2.21.0
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
SHELL ["/bin/bash", "-o", "pipefail", "-c"]
# Ubuntu's archive has only one version of each package.
# hadolint ignore=DL3008
RUN apt-get update \
 && apt-get install -y --no-install-recommends \
      g++ git libopenmpi-dev make openmpi-bin openssh-client python3 python3-venv \
 && rm -rf /var/lib/apt/lists/*
WORKDIR /opt/dlrm
ENV PATH=/opt/dlrm/.venv/bin:$PATH
COPY pyproject.toml ./
COPY locks locks
# The largest layer first: it changes only with TensorFlow.
RUN python3 -m venv .venv \
 && python -m pip install -c "locks/tensorflow-$TENSORFLOW.txt" pip \
 && python -m pip install -c "locks/tensorflow-$TENSORFLOW.txt" --group gpu
RUN python -m pip install -c "locks/tensorflow-$TENSORFLOW.txt" --group run --group onednn \
      --group horovod --group preprocess --group report --group mlperf --group build
COPY deploy/cuda_links.py deploy/
COPY deploy/horovod deploy/horovod
RUN python deploy/cuda_links.py \
 && deploy/horovod/build.sh --environment .venv --nccl --mpi --output /tmp/wheel \
 && python -m pip install --no-deps --no-index /tmp/wheel/*.whl \
 && rm -rf /tmp/wheel build
ARG SOK=
# merlin-sok supports these two of the project's GPUs. NCCL headers come from the image. The locks do
# not contain its build tools.
# hadolint ignore=DL3013
RUN if [ -n "$SOK" ]; then \
      python -m pip install scikit-build \
      && SOK_COMPILE_GPU_SM="80;90" python -m pip install --no-build-isolation --no-deps "merlin-sok==$SOK"; \
    fi

FROM environment AS build
ARG DLRM_CUDA_ARCHITECTURES=all
COPY . .
RUN python setup.py -q build_ext --inplace && rm -rf build

# With compilers, test tools and linters. make considers the environment and the ops up to date.
FROM build AS test
ARG TENSORFLOW=2.21.0
RUN python -m pip install -c "locks/tensorflow-$TENSORFLOW.txt" --group environment \
 && cp "locks/tensorflow-$TENSORFLOW.txt" .venv/constraints.txt \
 && echo gpu >.venv/.device && touch .venv/.ready && touch ops/*.so
CMD ["/bin/bash"]

FROM nvidia/cuda:${CUDA}-base-ubuntu${UBUNTU}
SHELL ["/bin/bash", "-o", "pipefail", "-c"]
# sshd: the Kubernetes MPI operator and horovodrun start ranks on other machines with ssh.
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
# Writable for any user.
RUN mkdir -m 1777 /home/dlrm data runs
CMD ["/bin/bash"]
