"""Builds Horovod from its source release for the installed TensorFlow."""
