"""Model-parallel embedding tables: placement, lookup, exchange and updates."""
