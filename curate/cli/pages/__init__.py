"""Commands that show a page while they run."""
