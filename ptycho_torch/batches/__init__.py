"""The torch floor: from group indices to batches."""
