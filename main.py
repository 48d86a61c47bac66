"""Trains DLRM: `python3 main.py --data_dir=DIR --global_batch_size=N`, alone or under horovodrun.

Flags are parsed before TensorFlow is imported, so that a wrong one is reported at once.
"""

import os
import sys
import time

from storage import program_start, standard_streams

if __name__ == "__main__":
    program_start.begin()

from training import flags
from training.flag_values import read_bytes
from training.runtime import environment, launcher, rank_status
from training.runtime.errors import EXIT_INTERRUPTED, DivergedError, RankLostError, UserError


def main(arguments):
    """Runs the job; returns its exit code (see `training.runtime.errors`)."""
    environment.prepare()
    place, error = launcher.Place(), None
    try:
        place = launcher.read()
    except UserError as wrong:
        error = wrong
    rank_status.running(place.rank)
    if error is None:
        code = _main(arguments, place)
    else:
        _complain(0, str(error))
        code = error.exit_code
    rank_status.ended(place.rank, code)
    return code


def _main(arguments, place):
    rank = place.rank
    begin = time.perf_counter()
    try:
        values = flags.parse(arguments)
        if values.mode != "plan":
            # What a job does is worth more than what it prints.
            standard_streams.keep_going()
        if rank == 0:
            shown = " ".join(arguments[1:])
            print(f"[Info] args: {shown}", flush=True)
        if values.mode == "plan":
            _plan(values)
            return 0
        code = _run(values, place)
    except (UserError, DivergedError, RankLostError) as error:
        _complain(rank, str(error))
        return error.exit_code
    except KeyboardInterrupt:
        _complain(rank, "interrupted")
        return EXIT_INTERRUPTED
    if rank == 0:
        print(f"main time: {time.perf_counter() - begin:.2f}s", flush=True)
    return code


def _plan(values):
    import dataset
    from planner import plan

    budget = values.memory_per_rank
    try:
        sizes, of_data = flags.vocab_sizes("mlperf"), {}
        if values.data_dir is not None:
            train = dataset.open_train(values.data_dir, values.data_layout)
            of_data["dense_features"] = train.dense_features
            sizes = train.vocab_sizes if values.vocab_sizes is None else sizes
        text = plan.render(
            sizes,
            ranks=values.ranks,
            device=values.device,
            global_batch_size=values.global_batch_size,
            amp=values.amp,
            dimension=values.embedding_dim,
            bottom_mlp=flags.widths("bottom_mlp"),
            top_mlp=flags.widths("top_mlp"),
            interaction=values.interaction,
            optimizer=values.embedding_optimizer,
            placement=values.placement,
            column_split="auto" if values.column_split else False,
            replicate_below_rows=values.replicate_below_rows,
            memory_per_rank=budget and read_bytes("memory_per_rank", budget),
            compress=values.compress,
            **of_data,
        )
    except ValueError as error:
        raise UserError(str(error)) from error
    print(text)


def _run(values, place):
    # Imports of TensorFlow start here.
    with environment.quick_imports():
        from training.modes import train

        # Before Horovod, whose first exchange makes TensorFlow take the GPUs that it sees.
        from training.runtime import error_translation, gpus, process_group

    # Before Horovod, whose first exchange makes TensorFlow take the GPUs that it sees.
    device = gpus.choose(place.local_rank)
    ranks = process_group.connect(place)
    with error_translation.translate_errors(ranks.rank, ranks.size):
        if ranks.local_rank == 0 and (unused := gpus.unused(device)):
            print(f"warning: {unused}", file=sys.stderr, flush=True)
        if ranks.size > 1:
            gpus.check(ranks, device)
        code = train.run(values, ranks)
    ranks.shutdown()
    return code


def _complain(rank, message):
    if rank != 0:
        # Most errors come to all ranks alike: let rank 0 say it and end the job.
        time.sleep(2)
        message = f"rank {rank}: {message}"
    print(f"error: {message}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    code = main(sys.argv)
    sys.stdout.flush()
    sys.stderr.flush()
    # Not sys.exit: Horovod's shutdown at interpreter exit waits for ranks that may be gone.
    if code:
        os._exit(code)
