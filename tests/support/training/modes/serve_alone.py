"""Runs exported models with TensorFlow alone, outside the project.

Usage: python -I serve_alone.py EXPORTED CASES.npz ANSWERS.npz [EXPORTED CASES ANSWERS ...]
"""

import sys

import numpy as np
import tensorflow as tf


def main(exported, cases, answers):
    """Writes the answer to each case, or the error message if the model refuses it."""
    loaded = tf.saved_model.load(exported)
    serve = loaded.signatures["serving_default"]
    with np.load(cases) as file:
        arrays = dict(file)
    found = {}
    for name in sorted({key.partition(".")[0] for key in arrays}):
        dense, ids = arrays[f"{name}.dense"], arrays[f"{name}.ids"]
        try:
            answer = serve(dense=tf.constant(dense), categorical=tf.constant(ids))
            found[name] = answer["probability"].numpy()
        except tf.errors.InvalidArgumentError as error:
            found[name] = np.array(str(error))
    ours = {"training", "model", "dataset", "ops", "horovod"}
    found["imported"] = np.array(sorted({n.split(".")[0] for n in sys.modules} & ours))
    np.savez(answers, **found)


if __name__ == "__main__":
    for first in range(1, len(sys.argv), 3):
        main(*sys.argv[first : first + 3])
