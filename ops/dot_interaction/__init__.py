"""The dot interaction of DLRM: native op for CPUs and GPUs, and its TensorFlow formulation.

B samples, F feature vectors per sample (the bottom MLP's output and T embedding vectors,
F = T + 1), D elements per vector. All functions return the same layout [B, W]:

    [bottom output (D) | scalar products of vectors i > j, row-major (F (F - 1) / 2) | zeros]

with W the used width rounded up to a multiple of 8: 480 for 27 vectors of 128. Products accumulate
in float32 for every element type. Formula: Naumov et al., "Deep Learning Recommendation Model
for Personalization and Recommendation Systems", arXiv:1906.00091, section 2.2.
"""

from ops.dot_interaction.native import dot_interaction, dot_interaction_stacked
from ops.dot_interaction.tensorflow_formulation import dot_interaction_tensorflow, output_width

__all__ = [
    "dot_interaction",
    "dot_interaction_stacked",
    "dot_interaction_tensorflow",
    "output_width",
]
