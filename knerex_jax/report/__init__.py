"""The report of a run: what was found, as plain data; a page that is a function of these data; two runs compared."""
