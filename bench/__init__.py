"""purifybench: how robust is a classifier when a purifier cleans each image first?"""

__version__ = "0.1.0"
