"""What modules of the trainer torch are worth: at a budget, without noise, and with private parts of a silo."""
