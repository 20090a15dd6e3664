"""Good images -> synthetic anomalies, or other good images: laws, sampling, geometry, colours."""
