"""Parts of a conversation that come in many forms: calls of tools, and what a question is about."""
