"""The processes of a job: ranks, launchers, devices, control votes, watchdog, restart, errors."""
