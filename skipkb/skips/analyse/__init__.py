"""What is a skip: the rules that find shortcuts in the recorded graph."""
