"""Serves an exported model as a stranger would: run with a bare TensorFlow, away from the project.

Usage: python -I serve_alone.py EXPORTED CASES.npz ANSWERS.npz
"""

import sys

import numpy as np
import tensorflow as tf


def main(exported, cases, answers):
    """Answers each case; an error's message where it is refused."""
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
    strangers = {"training", "model", "dataset", "ops", "horovod"}
    found["imported"] = np.array(sorted({n.split(".")[0] for n in sys.modules} & strangers))
    np.savez(answers, **found)


if __name__ == "__main__":
    main(*sys.argv[1:])
