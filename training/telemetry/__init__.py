"""Records of a run: journal, progress, summary, TensorBoard, MLPerf log, profiles, report."""
