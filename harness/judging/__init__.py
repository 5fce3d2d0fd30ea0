"""Model judges: what they are asked, how their replies are read, who answers, and the loop that keeps every reply."""
