"""The trace of a receipt: its tree, its openings, and the steps that compute one element of it again.

Normative: docs/disputes.md. Nothing here talks to a chain; a provider answers reveals from it, a challenger finds the
first wrong leaf with it, and both check an accusation before it is sent.
"""
