"""Storage of pruned and of SpQR weights: sparse containers, their sizes by formula and by count, and checkpoint codecs."""
