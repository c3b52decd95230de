"""From guesses and scores to statements about epsilon; nothing here knows what was attacked."""
