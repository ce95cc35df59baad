"""What stands behind the chapters: it applies their formulas to arrays, and imports nothing of them."""
