"""The defenses and classifiers that ship with purifybench: one file each."""
