"""One ml-collections file per experiment; its docstring holds the command and the result to expect."""
