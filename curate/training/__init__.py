"""Online batch selection inside the Hugging Face Trainer: draw candidates, score them, train on the best."""
