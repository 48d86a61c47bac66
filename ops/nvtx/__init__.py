"""NVTX ranges: named time spans in profilers such as nsys."""
