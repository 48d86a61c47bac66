"""Files on disk, for every other package: regular, bounded, written atomically.

`regular` opens what users and other programs name, `structured` reads their JSON and YAML,
`atomic` writes files that are there whole or not at all. What every program begins with is here
too: `program_start` and `standard_streams`, and the numbers of command lines, `arguments`. It
imports no other package of this project.
"""
