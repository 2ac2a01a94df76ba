"""The answers of a conversation: as one text, or each after its prompt."""
