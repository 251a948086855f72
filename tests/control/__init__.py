"""What the pool does of its own accord: planning, probing, checking, churn and shutdown."""
