"""The command line: the parser in `main`, and each command in the module of its name."""
