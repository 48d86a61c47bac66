from tests.support.dataset.preprocessing.fixtures import kernels, no_fsync, preprocess

__all__ = ["kernels", "no_fsync", "preprocess"]
