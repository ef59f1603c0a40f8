"""The attacks that ship with purifybench: one file, one attack."""
