"""What a preparation is, on paper: receipts, and what differs between two of them."""
