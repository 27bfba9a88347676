"""Several processes that train one model: how they start and end together, and what they tell each other."""
