"""Builds Horovod from its source release for the TensorFlow that is installed."""
