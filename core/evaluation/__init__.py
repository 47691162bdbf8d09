"""How models behave and how alike they are: score tables on disk, and measures over them."""
