"""Makes and checks bundles for hosts that reach no package index."""
