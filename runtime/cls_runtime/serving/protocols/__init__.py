"""How each kind of client asks, and what it is answered: a module a protocol, which knows nothing of the others."""
