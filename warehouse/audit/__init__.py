"""What an auditor asks: which rows changed and why, where a row comes from, whether files are whole, drift."""
