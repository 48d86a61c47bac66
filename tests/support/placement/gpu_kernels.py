"""The GPU kernels of ops: which exist, and which of their arguments are in host memory.

TensorFlow's CPU wheel has no GPU kernels, so those of TensorFlow's own ops are recorded from its
GPU wheel, which needs no GPU for that:

    python3 -m tests.support.placement.gpu_kernels [OP ...]

records the ops again, and the given ones too. The project's own ops are read from their sources.
"""

import json
import pathlib
import re
import sys

_RECORD = pathlib.Path(__file__).with_name("gpu_kernels.json")
_OPS = pathlib.Path(__file__).resolve().parents[3] / "ops"
# Without one of these, an op of the graph is a function call or has no kernel.
_DEVICES = ("GPU", "DEFAULT")


class UnknownOpError(LookupError):
    """An op whose GPU kernels are not recorded."""


def _kernels_of(name):
    """Returns the recorded form of an op's GPU kernels in this TensorFlow."""
    import tensorflow as tf
    from tensorflow.python.framework import kernels

    found = kernels.get_registered_kernels_for_op(name).kernel
    listed = []
    for device in _DEVICES:  # a kernel for GPUs precedes one for any device
        for kernel in found:
            if kernel.device_type == device:
                types = {
                    c.name: sorted(tf.as_dtype(t).name for t in c.allowed_values.list.type)
                    for c in kernel.constraint
                }
                listed.append({"types": types, "host": sorted(kernel.host_memory_arg)})
    return listed


def record(names=()):
    """Writes the record of the ops in it and of `names`."""
    import tensorflow as tf

    if not tf.test.is_built_with_cuda():
        raise SystemExit("gpu_kernels: expected TensorFlow's GPU wheel, found one for CPUs")
    known = json.loads(_RECORD.read_text())["ops"] if _RECORD.exists() else {}
    ops = {name: _kernels_of(name) for name in sorted({*known, *names})}
    lines = [f"  {json.dumps(name)}: {json.dumps(kernels)}" for name, kernels in ops.items()]
    text = f'{{"tensorflow": "{tf.__version__}", "ops": {{\n' + ",\n".join(lines) + "\n}}\n"
    _RECORD.write_text(text)


def _own_kernels():
    """Returns {op: kernels} of the project's ops, from the registrations in ops/*/*_gpu.cc."""
    texts = [path.read_text() for path in sorted(_OPS.glob("*/*_gpu.cc"))]
    text, found = "\n".join(texts), {}
    for part in texts:
        for registration in part.split("REGISTER_KERNEL_BUILDER(")[1:]:
            registration = registration.partition(");")[0]
            names = re.findall(r'Name\("(Dlrm>\w+)"\)', registration)
            if "Name(op)" in registration:  # in a macro
                names = re.findall(r'DLRM_REGISTER_OP\("(Dlrm>\w+)"', part)
            host = re.findall(r'HostMemory\("(\w+)"\)', registration)
            assert names, registration
            found.update({name: [{"types": {}, "host": host}] for name in names})
    if "DLRM_REGISTER_DOT_INTERACTION(DEVICE_GPU" in text:
        macro = (_OPS / "dot_interaction" / "dot_interaction_kernel.h").read_text()
        for name in re.findall(r'"(Dlrm>DotInteraction\w*)"', macro):
            found[name] = [{"types": {}, "host": []}]
    return found


class GpuKernels:
    """The recorded kernels and those of the project."""

    def __init__(self):
        self._ops = {**json.loads(_RECORD.read_text())["ops"], **_own_kernels()}

    def host_arguments(self, name, types):
        """Returns the arguments in host memory of an op's GPU kernel, or None without a kernel.

        Args:
            name: of the op.
            types: {attribute: name of its dtype}.

        Raises:
            UnknownOpError: the op is not recorded.
        """
        if name not in self._ops:
            if name.startswith("Dlrm>"):
                return None
            raise UnknownOpError(
                f"{name} is not in {_RECORD.name}: with TensorFlow's GPU wheel, run "
                f"python3 -m {__spec__.name} {name}"
            )
        for kernel in self._ops[name]:
            if all(types.get(name) in allowed for name, allowed in kernel["types"].items()):
                return kernel["host"]
        return None


if __name__ == "__main__":
    record(sys.argv[1:])
