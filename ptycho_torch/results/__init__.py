"""What a reconstruction is worth, and what it leaves behind."""
