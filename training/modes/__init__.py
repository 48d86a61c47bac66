"""What a process can be started for: one file for each --mode."""
