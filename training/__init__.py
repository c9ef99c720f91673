"""How a model learns and is measured; the only room that knows torch."""
