"""The distribution of connections: claims, the wait queue, and the dispatcher between them."""
