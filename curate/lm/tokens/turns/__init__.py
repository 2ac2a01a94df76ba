"""Where the answers of a conversation are: as one text, or one after its prompt."""
