"""IPython: the extension, its magics, and the hooks around cells. May import all other folders."""
