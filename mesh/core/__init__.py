"""The pure core: digests, tree, reconciliation, schedule, plan.

Messages in, effects out. Nothing here awaits, reads a clock or draws a random number:
time and randomness are arguments.
"""
