"""Buffers with guard bytes at both ends, in GPU memory (PyTorch) or host memory (emulation)."""

import numpy as np

_GUARD = 512
_FILL = 0xA5
_ALIGNMENT = 256


class GuardError(AssertionError):
    """A kernel wrote outside its buffer."""


class HostMemory:
    """Host memory, for emulated kernels."""

    stream = None

    @staticmethod
    def _allocate(count):
        memory = np.empty(count + _ALIGNMENT, np.uint8)
        skip = -memory.ctypes.data % _ALIGNMENT
        return memory[skip : skip + count]

    @staticmethod
    def _address(memory):
        return memory.ctypes.data

    @staticmethod
    def _write(memory, data):
        memory[:] = data

    @staticmethod
    def _read(memory):
        return memory.copy()

    def synchronize(self):
        """Does nothing: emulated launchers return after their kernels have run."""

    def empty(self, count, dtype, offset=0):
        """Returns a buffer of ``count`` NaNs (bytes 0xff), misaligned by ``offset`` bytes."""
        size = count * np.dtype(dtype).itemsize
        return Buffer(self, np.full(size, 0xFF, np.uint8).view(dtype), offset)

    def upload(self, array, offset=0):
        """Returns a buffer with a copy of the array, misaligned by ``offset`` bytes."""
        return Buffer(self, np.ascontiguousarray(array), offset)


class TorchMemory(HostMemory):
    """Memory that PyTorch allocates.

    Args:
        place: "cuda", or "cpu" with the emulated launchers.
    """

    def __init__(self, place="cuda"):
        import torch

        self._torch, self.place = torch, place
        if place == "cuda":
            self.stream = torch.cuda.current_stream().cuda_stream

    def require_free(self, size):
        """Raises MemoryError if fewer than `size` bytes are free on the device."""
        self._torch.cuda.empty_cache()
        free = self._torch.cuda.mem_get_info()[0]
        if free < size:
            raise MemoryError(
                f"expected {size / 1e9:.1f} GB of free device memory, found {free / 1e9:.1f} GB"
            )

    def _allocate(self, count):
        return self._torch.empty(count, dtype=self._torch.uint8, device=self.place)

    @staticmethod
    def _address(memory):
        return memory.data_ptr()

    def _write(self, memory, data):
        memory.copy_(self._torch.from_numpy(data))

    @staticmethod
    def _read(memory):
        return memory.cpu().numpy()

    def synchronize(self):
        """Waits for the device; raises RuntimeError if a kernel failed."""
        if self.place == "cuda":
            self._torch.cuda.synchronize()


def workspace(size, place="cuda"):
    """Returns a tensor of `size` bytes at the alignment that the launchers expect of workspaces."""
    import torch

    memory = torch.empty(size + _ALIGNMENT, dtype=torch.uint8, device=place)
    skip = -memory.data_ptr() % _ALIGNMENT
    return memory[skip : skip + size]


class Buffer:
    """Elements between guard bytes."""

    def __init__(self, memory, array, offset):
        data = np.full(array.nbytes + 2 * _GUARD, _FILL, np.uint8)
        self._begin = _GUARD + offset
        self._end = self._begin + array.nbytes
        data[self._begin : self._end] = array.reshape(-1).view(np.uint8)
        self._owner, self._shape, self._dtype = memory, array.shape, array.dtype
        self._memory = memory._allocate(data.size)
        memory._write(self._memory, data)

    @property
    def pointer(self):
        """The address of the first element."""
        return self._owner._address(self._memory) + self._begin

    def download(self):
        """Returns the elements.

        Raises:
            GuardError: bytes before the first or after the last element have changed.
        """
        self._owner.synchronize()
        data = self._owner._read(self._memory)
        for name, part in (("before", data[: self._begin]), ("after", data[self._end :])):
            if (part != _FILL).any():
                raise GuardError(f"{int((part != _FILL).sum())} bytes {name} a buffer were written")
        return data[self._begin : self._end].view(self._dtype).reshape(self._shape)
