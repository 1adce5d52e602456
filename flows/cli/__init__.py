"""`mpsr`, the command line: one file per panel of its help; `questions/` reads, `words/` prints.

Nothing heavy is imported before a command runs that needs it. Nobody imports this wing.
"""
