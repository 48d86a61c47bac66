"""Files on disk, for every other package: regular, bounded, written atomically.

`regular` opens what users and other programs name, `structured` reads their JSON and YAML,
`atomic` writes files that are there whole or not at all. It imports no other package of this
project.
"""
