"""Processes of a job: ranks, launchers, devices, control votes, watchdog, restart, exit codes."""
