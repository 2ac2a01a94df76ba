"""Chat templates that come with curate, and what every chat template has: a name or a file, and a day."""
