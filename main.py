"""Trains DLRM: `python3 main.py --data_dir=DIR --global_batch_size=N`, also under horovodrun.

Flags are parsed before TensorFlow is imported, so that wrong ones are reported at once.
"""

import os
import sys
import time

from storage import program_start, standard_streams

if __name__ == "__main__":
    program_start.begin()

from training import cli
from training.runtime import console, environment, launcher, rank_status
from training.runtime.errors import EXIT_INTERRUPTED, DivergedError, RankLostError, UserError


def main(arguments: list[str]) -> int:
    """Runs the job; returns its exit code (`training.runtime.errors`).

    Args:
        arguments: like sys.argv.
    """
    environment.prepare()
    place, error = launcher.Place(), None
    try:
        place = launcher.read()
    except UserError as wrong:
        error = wrong
    rank_status.record_start(place.rank)
    if error is None:
        code = _main(arguments, place)
    else:
        console.print_error(0, str(error))
        code = error.exit_code
    rank_status.record_exit(place.rank, code)
    return code


def _main(arguments: list[str], place: launcher.Place) -> int:
    begin = time.perf_counter()
    try:
        config = cli.parse(arguments)
        planning = config.job.mode == "plan"
        if not planning:
            # A closed output must not end the job.
            standard_streams.keep_going()
        if place.rank == 0:
            print(f"[Info] args: {' '.join(arguments[1:])}", flush=True)
        if planning:
            from training.modes import plan

            return plan.run(config)
        from training import job

        code = job.run(config, place)
    except (UserError, DivergedError, RankLostError) as error:
        console.print_error(place.rank, str(error))
        return error.exit_code
    except KeyboardInterrupt:
        console.print_error(place.rank, "interrupted")
        return EXIT_INTERRUPTED
    if place.rank == 0:
        print(f"main time: {time.perf_counter() - begin:.2f}s", flush=True)
    return code


if __name__ == "__main__":
    code = main(sys.argv)
    sys.stdout.flush()
    sys.stderr.flush()
    # sys.exit would run Horovod's shutdown, which waits for ranks that may be gone.
    if code:
        os._exit(code)
