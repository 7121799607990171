"""What an export must pass before its bundle appears, and the texts that it is held to."""
