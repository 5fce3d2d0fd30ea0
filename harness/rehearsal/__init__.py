"""What `viva rehearse` is made of: raters who do not exist, and their way through the real pages."""
