"""What somebody hostile would send: mutations of what was really sent, drawn from a seed."""
