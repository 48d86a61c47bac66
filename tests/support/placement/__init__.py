"""Where TensorFlow would place a graph on a host with a GPU, found out without one."""
