"""File input and output for every other package, and what every program does at its start.

Reading: `regular` opens files that users and other programs name; `structured` reads their JSON and
YAML.

Writing: `atomic` writes files and folders atomically; `claim` keeps two programs from writing the
same files; `direct_io` writes past the page cache; `partial_files` does so for several files at any
offset, `digested_file` for one file in a stream. `digests` computes every digest and checksum.

Programs: `program_start`, `standard_streams`, `arguments`, `paths`, and the base class of reported
errors in `errors`. This package imports no other package of this project.
"""
