"""The rows of the table of methods, by family, and the table that they stand in; ``recipes.py`` reads them in order."""
