"""One reader behind every door: a table of interactions or items becomes blocks of cells, and these become rows.

A cell is read by a rule that sees that cell and the settings alone; a row of text is a line. Which rows are kept, and
with what, therefore never depends on another row (see `rows`), in a simulation as in a silo.
"""
