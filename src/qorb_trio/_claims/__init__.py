"""Who gets a connection: claims, the wait queue, and the dispatcher between them."""
