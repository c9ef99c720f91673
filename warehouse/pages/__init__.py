"""What people read: reports, cards, plots."""
