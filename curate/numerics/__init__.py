"""Pure tensor mathematics: imports torch and nothing of ours."""
