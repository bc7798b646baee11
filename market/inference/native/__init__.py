"""The kernels in C and what Python needs to call them.

The C sources lie beside this file and are built with the package as an optional extension: where there is no compiler
the package installs without it (docs/adr/0018-kernels-read-the-rows-of-the-pack.md).
"""
