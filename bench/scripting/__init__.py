"""The same from Python: evaluations, audits and judgements for scripts and notebooks."""
