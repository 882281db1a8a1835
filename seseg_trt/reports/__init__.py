"""Pages and pictures about runs, certificates and evaluations."""
