"""The star transport: a link of its own for each worker, and a gateway process at the server's end of it."""
