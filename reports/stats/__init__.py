"""Statistics of a rating study: pure functions of arrays and, where chance is needed, a numpy Generator.

Nothing here reads a file, knows an arm's name or writes a sentence. Definitions and sources are in
docs/statistics.md; estimates come back as frozen dataclasses, with None where a number cannot be computed.
"""
