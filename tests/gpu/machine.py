"""Measures the device's limits, which the kernels' times are compared with."""

import functools

from tests.gpu.clock import measure, use_tf32

COPY_BYTES = (2**31, 2**28, 2**26, 2**24)  # the first is the limit, the others show small sizes
MATRIX = 8192


def properties():
    """Returns PyTorch's properties of the device."""
    import torch

    known = torch.cuda.get_device_properties(0)
    names = ("name", "multi_processor_count", "L2_cache_size", "total_memory", "clock_rate",
             "shared_memory_per_multiprocessor", "regs_per_multiprocessor")  # fmt: skip
    found = {name: getattr(known, name) for name in names if hasattr(known, name)}
    return {**found, "torch": torch.__version__, "cuda": torch.version.cuda}


def copies():
    """Measures bytes read plus written per second of device-to-device copies, by size."""
    import torch

    rates = {}
    for size in COPY_BYTES:
        sets = 1 if size >= COPY_BYTES[0] else 4  # alternated, so that they are not in a cache
        pairs = []
        for _ in range(sets):
            source = torch.randint(0, 255, (size,), dtype=torch.uint8, device="cuda")
            pairs.append((source, torch.empty_like(source)))
        calls = [lambda s=s, t=t: t.copy_(s) for s, t in pairs]
        rates[size] = 2 * size / measure(calls)["seconds"]
        del pairs, calls
    return {"copy_bytes_per_s": rates[COPY_BYTES[0]], "by_size": rates}


def fills():
    """Measures bytes written per second, and the time of the smallest kernel."""
    import torch

    large = torch.empty(COPY_BYTES[0], dtype=torch.uint8, device="cuda")
    written = COPY_BYTES[0] / measure([lambda: large.fill_(1)])["seconds"]
    small = torch.empty(1, device="cuda")
    return {"fill_bytes_per_s": written, "smallest": measure([lambda: small.fill_(1)])}


def matrices(kind, tf32=False):
    """Measures FLOP/s of a product of random square matrices."""
    import torch

    dtype = getattr(torch, kind)
    use_tf32(tf32)
    a, b = (torch.randn((MATRIX, MATRIX), device="cuda").to(dtype) for _ in range(2))
    return {"flop_per_s": 2 * MATRIX**3 / measure([lambda: a @ b], repeats=10)["seconds"]}


def entries(seed):
    """Returns [(name, function that returns a result for JSON)]."""
    import torch

    torch.manual_seed(seed)
    return [
        ("device", properties),
        ("copy bandwidth", copies),
        ("fill bandwidth", fills),
        ("matrix product float16", functools.partial(matrices, "float16")),
        ("matrix product bfloat16", functools.partial(matrices, "bfloat16")),
        ("matrix product TF32", functools.partial(matrices, "float32", True)),
        ("matrix product float32", functools.partial(matrices, "float32")),
    ]
