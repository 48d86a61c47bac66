"""How the trainer comes onto machines."""
