"""Writes DeepLearningExamples datasets with a feature_spec.yaml."""

import copy

import numpy as np
import yaml

from tests.support.dataset.hand_written import narrow, random_arrays

SIZES = [5, 200, 40000]
SAMPLES = 90


class SpecDataset:
    """A DeepLearningExamples dataset with unusual feature names and file locations.

    Args:
        root: its folder.
        rng: draws the samples.
        numerical: number of numerical features.
        dtype: their dtype.
        places: subfolders of the files of train and test.
    """

    def __init__(self, root, rng, numerical=10, dtype="float32", places=("train", "test")):
        self.root = root
        self.arrays = {}
        dense = [f"num_{i}" for i in range(numerical)]
        ids = [f"user id {t}" for t in range(len(SIZES))]
        features = {name: {"dtype": dtype} for name in dense} | {"clicked": {"dtype": "bool"}}
        for name, rows in zip(ids, SIZES):
            features[name] = {"dtype": np.dtype(narrow(rows)).name, "cardinality": rows}
        self.spec = {
            "feature_spec": features,
            "source_spec": {},
            # As in NVIDIA's scripts, a list occurs twice: yaml.dump writes an alias.
            "channel_spec": {"categorical": ids, "numerical": dense, "label": ["clicked"]},
            "metadata": {},
        }
        for mapping, place in zip(("train", "test"), places):
            drawn = random_arrays(SAMPLES, rng, SIZES)
            values = np.log(drawn.dense[:, :1] + np.arange(1, numerical + 1)).astype(dtype)
            self.arrays[mapping] = drawn._replace(dense=values)
            (root / place).mkdir(parents=True, exist_ok=True)
            files = {f"{mapping}_x.bin": dense, f"{mapping}_y.bin": ["clicked"]}
            values.tofile(root / place / f"{mapping}_x.bin")
            drawn.label.astype(bool).tofile(root / place / f"{mapping}_y.bin")
            for table, (name, rows) in enumerate(zip(ids, SIZES)):
                file = f"{mapping}_{table}.bin"
                drawn.ids[:, table].astype(narrow(rows)).tofile(root / place / file)
                files[file] = [name]
            self.spec["source_spec"][mapping] = [
                {"type": "split_binary", "features": names, "files": [f"{place}/{file}"]}
                for file, names in files.items()
            ]
        self.write(self.spec)

    def write(self, spec):
        (self.root / "feature_spec.yaml").write_text(yaml.dump(spec))

    def change(self, *steps, value=None):
        """Writes a spec with the value at `steps` replaced, or removed if `value` is None."""
        spec = copy.deepcopy(self.spec)
        at = spec
        for step in steps[:-1]:
            at = at[step]
        if value is None:
            del at[steps[-1]]
        else:
            at[steps[-1]] = value
        self.write(spec)
