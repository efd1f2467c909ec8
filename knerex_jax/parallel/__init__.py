"""Work spread over devices and over processes, with results that do not depend on how many there are."""
