# The trainer in a Merlin TensorFlow container, which brings TensorFlow with CUDA, Horovod with
# NCCL, and the SparseOperationKit:
#
#   docker build -t dlrm .
#   docker run --gpus=all --ipc=host --ulimit memlock=-1 --rm -it -v /path/to/data:/data dlrm
#
# Merlin's tags up to 23.08 carry TensorFlow 2.12 or older; the ops are built against what is there.
ARG BASE=nvcr.io/nvidia/merlin/merlin-tensorflow:23.08
FROM ${BASE}

WORKDIR /opt/dlrm
COPY constraints.txt setup.py pyproject.toml ./
# Only what the container lacks: its TensorFlow, NumPy and Horovod stay as they are.
RUN sed '/^# begin tensorflow/,/^# end tensorflow/d; /^horovod==/d' constraints.txt >/tmp/constraints.txt \
 && python3 -m pip install --no-cache-dir -c /tmp/constraints.txt \
      absl-py cmake duckdb jinja2 matplotlib msgspec ninja psutil pyarrow pyyaml tqdm xxhash zstandard \
 && python3 -m pip install --no-cache-dir --no-deps -c /tmp/constraints.txt mlperf-logging
COPY . .
RUN python3 setup.py -q build_ext --inplace
CMD ["/bin/bash"]
