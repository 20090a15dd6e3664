"""Good images -> synthetic anomalies: laws, draws, geometry, colours, one blend."""
