"""Prints the results of ``tests.gpu.run`` as tables."""

import statistics

_LEGEND = """us: median; +-: 10 to 90 % quantile, in % of the median (w: device waited for the host)
of copy: share of the bandwidth of a 2 GiB copy; PyTorch: us of its equivalent; ratio: to ours
warps: resident per multiprocessor, by registers and shared memory"""
_ATOMICS, _SORTED = "SGD atomics ", "SGD deterministic "


def line_of(entry):
    """Returns one result as a line."""
    if not entry["passed"]:
        return f"FAILED {entry['name']}: {entry['error']}" + (
            f" (seed {entry['seed']})" if "seed" in entry else ""
        )
    if "skipped" in entry:
        return f"skipped {entry['name']}: {entry['skipped']}"
    if "worst" in entry:
        return f"ok {entry['name']}: {entry['cases']} cases, error / limit {entry['worst']:.3g}"
    if "bytes" in entry:
        return f"timed {entry['name']}: {entry['seconds'] * 1e6:.1f} us"
    return f"measured {entry['name']}: " + ", ".join(
        f"{key} {value}" for key, value in entry.items()
        if key not in ("name", "passed", "wall_seconds")
    )  # fmt: skip


def find(results, name, key):
    """Returns a field of a measured device limit, or None."""
    for entry in results["timings"]:
        if entry["name"] == name and key in entry:
            return entry[key]
    return None


def print_timings(results):
    """Prints the device's limits and one line for each operation."""
    copy = find(results, "copy bandwidth", "copy_bytes_per_s")
    if copy:
        sizes = find(results, "copy bandwidth", "by_size")
        rates = [f"{int(size) >> 20} MiB {rate / 1e12:.2f}" for size, rate in sizes.items()]
        print(f"\ncopy, bytes read and written, TB/s: {', '.join(rates)}")
    rates = {
        entry["name"].rpartition(" ")[2]: entry["flop_per_s"]
        for entry in results["timings"] if "flop_per_s" in entry
    }  # fmt: skip
    if rates:
        print("matrix products, TFLOP/s: "
              + ", ".join(f"{kind} {rate / 1e12:.0f}" for kind, rate in rates.items()))  # fmt: skip
    timed = [entry for entry in results["timings"] if "bytes" in entry or not entry["passed"]]
    width = max((len(entry["name"]) for entry in timed), default=0)
    print(f"\n{'operation':{width}} {'MB':>6} {'us':>8} {'+-':>4} {'TB/s':>5} {'of copy':>7} "
          f"{'goal':>5} {'PyTorch':>8} {'ratio':>5} {'regs':>4} {'warps':>5}")  # fmt: skip
    for entry in timed:
        if entry["passed"]:
            print(f"{entry['name']:{width}} {_timing(entry, copy)}")
        else:
            print(f"{entry['name']:{width}} FAILED: {entry['error']}")
    print(_LEGEND)
    _print_products(timed, rates)
    _print_orders(timed)


def _print_products(timed, rates):
    """Prints the rates of timings that are matrix products, and PyTorch's for the same.

    Args:
        timed: the results.
        rates: {precision, the last word of a name: measured FLOP/s of a large product}.
    """
    products = [entry for entry in timed if entry["passed"] and "flop" in entry]
    if not products:
        return
    width = max(len(entry["name"]) for entry in products)
    print(f"\n{'matrix products':{width}} {'GFLOP':>6} {'TFLOP/s':>7} {'of rate':>7} "
          "PyTorch's TFLOP/s")  # fmt: skip
    for entry in products:
        rate, limit = entry["flop"] / entry["seconds"], rates.get(entry["name"].split()[-1])
        share = f"{rate / limit:7.1%}" if limit else f"{'-':>7}"
        peer = (
            f"{entry['flop'] / entry['torch']['seconds'] / 1e12:.0f}" if "torch" in entry else "-"
        )
        print(f"{entry['name']:{width}} {entry['flop'] / 1e9:6.0f} {rate / 1e12:7.0f} {share} "
              f"{peer:>17}")  # fmt: skip


def _print_orders(timed):
    """Prints how much slower deterministic SGD is than SGD with atomics, on the same ids."""
    atomics = {entry["name"].removeprefix(_ATOMICS): entry["seconds"] for entry in timed
               if entry["passed"] and entry["name"].startswith(_ATOMICS)}  # fmt: skip
    compared = [(entry["name"].removeprefix(_SORTED), entry) for entry in timed
                if entry["passed"] and entry["name"].startswith(_SORTED)]  # fmt: skip
    compared = [(case, entry) for case, entry in compared if case in atomics]
    if not compared:
        return
    width = max(len(case) for case, _ in compared)
    print(f"\n{'SGD, us':{width}}  atomics  sorted sorted/atomics  most frequent row's share of "
          "its table's lookups: median, largest")  # fmt: skip
    for case, entry in compared:
        shares = entry["hottest_row_shares"]
        print(f"{case:{width}} {atomics[case] * 1e6:8.1f} {entry['seconds'] * 1e6:7.1f} "
              f"{entry['seconds'] / atomics[case]:14.2f}  {statistics.median(shares):.2%}, "
              f"{max(shares):.2%}")  # fmt: skip


def _timing(entry, copy):
    rate = entry["bytes"] / entry["seconds"]
    spread = (entry["seconds_high"] - entry["seconds_low"]) / entry["seconds"]
    share = f"{rate / copy:7.1%}" if copy else f"{'-':>7}"
    goal = f"{entry['goal']:5.0%}" if "goal" in entry else f"{'':5}"
    peer, ratio = f"{'-':>8}", f"{'':5}"
    if "torch" in entry:
        seconds = entry["torch"]["seconds"]
        peer, ratio = f"{seconds * 1e6:8.0f}", f"{seconds / entry['seconds']:5.1f}"
    launch = entry["launch"]
    warps = launch["threads"] // 32 * launch["blocks_of_a_multiprocessor"] if launch else "-"
    return (f"{entry['bytes'] / 1e6:6.0f} {entry['seconds'] * 1e6:8.1f} "
            f"{spread:3.0%}{'w' if entry['waited'] else ' '}{rate / 1e12:5.2f} {share} {goal} "
            f"{peer} {ratio} {launch.get('registers', '-'):>4} {warps:>5}")  # fmt: skip
