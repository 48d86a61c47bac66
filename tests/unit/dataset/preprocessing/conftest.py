from tests.support.dataset.preprocessing.fixtures import no_fsync, preprocess

__all__ = ["no_fsync", "preprocess"]
