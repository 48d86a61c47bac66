"""What every program of the benchmark is asked to train: one DLRM, one precision.

Read by programs of several environments, so nothing is imported here but Python's own library.
"""

import dataclasses
import json

DENSE_FEATURES = 13


@dataclasses.dataclass(frozen=True)
class Task:
    """One model in one precision.

    Attributes:
        vocab_sizes: rows of each of the T tables.
        dimension: D, numbers in a row.
        bottom_mlp: widths of the bottom MLP; the last is D.
        top_mlp: widths of the top MLP; the last is 1.
        precision: "fp32", or "bf16": dense arithmetic and its activations in bfloat16, tables and
            master weights in float32.
        batches: batch sizes (global) that will be asked for, largest first.
        data_dir: dataset folder of the program that reads files.
        learning_rate: of plain SGD, small enough that no weight leaves the usual range.
        seed: of weights and random batches.
    """

    vocab_sizes: tuple
    dimension: int = 128
    bottom_mlp: tuple = (512, 256, 128)
    top_mlp: tuple = (1024, 1024, 512, 256, 1)
    precision: str = "fp32"
    batches: tuple = (8192, 2048)
    data_dir: str = ""
    learning_rate: float = 0.01
    seed: int = 1

    @property
    def table_bytes(self):
        """Bytes of all tables in float32."""
        return sum(self.vocab_sizes) * self.dimension * 4

    def write(self, path):
        """Writes the task to a file."""
        with open(path, "w", encoding="utf-8") as file:
            json.dump(dataclasses.asdict(self), file)

    @classmethod
    def read(cls, path):
        """Returns the task that `write` wrote."""
        with open(path, encoding="utf-8") as file:
            values = json.load(file)
        return cls(**{k: tuple(v) if isinstance(v, list) else v for k, v in values.items()})
