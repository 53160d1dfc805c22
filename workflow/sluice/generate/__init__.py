"""Generate: candidates drawn from the generator."""
