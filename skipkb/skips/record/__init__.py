"""What ran: one forward pass, written down as a graph of operations on data."""
