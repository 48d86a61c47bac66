"""Files on disk, for every other package: regular, bounded, digested, written atomically.

Reading: `regular` opens what users and other programs name, `structured` reads their JSON and YAML.
Writing: `atomic` writes files and folders that are there whole or not at all; `claim` keeps two
programs from writing the same ones; `direct_io` writes past the page cache, `partial_files` several
files so at any offset, `digested_file` one in a stream. `digests` has every digest and checksum.

What every program begins with is here too: `program_start` and `standard_streams`, and for command
lines `arguments` and `paths`. It imports no other package of this project.
"""
