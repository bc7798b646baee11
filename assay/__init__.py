"""Wires market, provider and client together: the command line's root, the local network, the demo, the doctor.

Imports the other three; nobody imports it (docs/adr/0001-one-package-above.md).
"""
