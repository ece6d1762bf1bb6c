"""Generated problems with worked answers and an exact verifier: what the embedded model is trained and measured on."""
