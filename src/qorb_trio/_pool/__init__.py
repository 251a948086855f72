"""A pool from open to closed: it builds the other rooms, runs their tasks and ends them."""
