"""What a configuration can say: its schema, how it is read and checked, and hints at what a misspelt key meant."""
