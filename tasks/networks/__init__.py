"""Building classifiers: networks of timm, mini networks that can be generated whole, and the user's own."""
