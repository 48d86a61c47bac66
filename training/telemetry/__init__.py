"""What a run records: journal, progress, summary, TensorBoard, MLPerf log, profile, report."""
