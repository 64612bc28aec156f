"""`mesh bench`: what a node costs, measured on real processes over real HTTP."""
