"""Answers of queries: their text is made in the process of the query, and printed by the command."""
