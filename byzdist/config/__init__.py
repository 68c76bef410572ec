"""What a configuration can say: its schema, how it is read and checked, and what to say of a slip."""
