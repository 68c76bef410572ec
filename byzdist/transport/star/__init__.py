"""The star transport: each worker has a link of its own, with a gateway process at the server's end."""
