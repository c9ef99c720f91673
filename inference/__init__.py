"""How a model is asked, and answers."""
